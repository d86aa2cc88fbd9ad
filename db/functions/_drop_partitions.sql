-- Dropping locks the parent for an instant. Whoever calls this does so under a lock timeout and
-- catches lock_not_available, rather than let finishes queue behind it.
create or replace function rota._drop_partitions(parent text, older_than timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_name text;
begin
    for v_name in
        select c.relname
        from pg_catalog.pg_inherits as i
        join pg_catalog.pg_class as c on c.oid = i.inhrelid
        where i.inhparent = ('rota.' || quote_ident(parent))::regclass
            and c.relname ~ '_[0-9]{8}$'
            and to_date(right(c.relname, 8), 'YYYYMMDD') + 7
                <= (older_than at time zone 'UTC')::date
    loop
        execute format('drop table rota.%I', v_name);
    end loop;

    execute format('delete from only rota.%I where finished_at < $1', parent || '_default')
        using older_than;
end;
$$;

comment on function rota._drop_partitions is
    'Drop the weeks of a partitioned table that ended before this time.';
