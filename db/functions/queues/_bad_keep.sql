-- A repeated finish gets its answer for an hour whatever is kept, so less is not to be had.
create or replace function rota._bad_keep(setting text, span interval, may_be_0 boolean)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format(
        '%s must be %sfrom 1 hour to 100 years, not %s',
        setting, case when may_be_0 then '0 or ' else '' end, rota._span_text(span)
    )
    where span not between interval '1 hour' and interval '100 years'
        and not (may_be_0 and span = interval '0')
$$;

comment on function rota._bad_keep is
    'Say what is wrong with how long history is to be kept, or return null.';
