-- JSON knows one way to write a time; a cast to text would follow DateStyle. This is what a cast
-- gives at DateStyle ISO in UTC, so what was written that way before still compares equal.
create or replace function rota._utc_text(moment timestamptz)
    returns text
    language sql
    stable
as $$
    select replace(to_jsonb(moment at time zone 'UTC') #>> '{}', 'T', ' ')
        || case when isfinite(moment) then '+00' else '' end
$$;

comment on function rota._utc_text is
    'Write a moment in UTC, the same way in every session.';
