create or replace function rota._expired_weeks(parent text, older_than timestamptz)
    returns text[]
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select array(
        select p.name
        from rota._history_parts(parent) as p
        where p.ends_at <= older_than
        order by p.ends_at
    )
$$;

comment on function rota._expired_weeks is
    'Name the partitions of a history table that ended before this time.';
