-- A cast to text follows IntervalStyle. For messages only: the settings cost a microsecond or two.
create or replace function rota._span_text(span interval)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
    set intervalstyle = 'postgres'
as $$
    select span::text
$$;

comment on function rota._span_text is
    'Write an interval, the same way in every session.';
