-- A repeated finish gets its answer for an hour whatever is kept, so less is not to be had. A
-- year has 365.25 days here, as for who counts in seconds.
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
    where extract(epoch from span) not between 3600 and 36525 * 86400.0
        and not (may_be_0 and span = interval '0')
$$;

comment on function rota._bad_keep is
    'Say what is wrong with how long history is to be kept, or return null.';
