create or replace function rota._expired_weeks(parent text, older_than timestamptz)
    returns text[]
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select array(
        select c.relname
        from pg_catalog.pg_inherits as i
        join pg_catalog.pg_class as c on c.oid = i.inhrelid
        where i.inhparent = ('rota.' || quote_ident(parent))::regclass
            and c.relname ~ '_[0-9]{8}$'
            and to_date(right(c.relname, 8), 'YYYYMMDD') + 7
                <= (older_than at time zone 'UTC')::date
        order by c.relname
    )
$$;

comment on function rota._expired_weeks is
    'Name the partitions of a history table whose weeks ended before this time.';
