-- Who locks or changes a row has locked its table, too, in one of these modes and until it ends;
-- so does a prepared transaction, which has no process. A foreign key's check does so as well, and
-- stops no claim: it is one if it also writes to a table that refers to ours, as far as can be seen
-- from here. Of a transaction with savepoints there is a row for each that is still there.
create or replace function rota._row_lockers()
    returns setof rota.row_holder
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with locks as materialized (
        select l.* from pg_catalog.pg_locks as l where l.granted
    ), on_tables as materialized (
        select l.virtualtransaction, l.relation, l.mode
        from locks as l
        where l.locktype = 'relation'
            and l.database = (
                select d.oid from pg_catalog.pg_database as d where d.datname = current_database()
            )
    )
    select
        t.transactionid,
        t.pid,
        p.gid,
        coalesce(a.usename, p.owner)::text,
        nullif(a.application_name, ''),
        a.state,
        coalesce(a.xact_start, p.prepared),
        not exists (
            select
            from on_tables as o
            where o.virtualtransaction = t.virtualtransaction
                and o.relation = 'rota.live_jobs'::regclass
                and o.mode = 'RowExclusiveLock'
        )
        and exists (
            select
            from on_tables as o
            join pg_catalog.pg_constraint as c on c.conrelid = o.relation
            where o.virtualtransaction = t.virtualtransaction
                and o.mode = 'RowExclusiveLock'
                and c.contype = 'f'
                and c.confrelid = 'rota.live_jobs'::regclass
        ),
        true
    from locks as t
    left join pg_catalog.pg_stat_activity as a on a.pid = t.pid
    left join pg_catalog.pg_prepared_xacts as p on p.transaction = t.transactionid
    where t.locktype = 'transactionid'
        and t.mode = 'ExclusiveLock'
        and t.pid is distinct from pg_backend_pid()
        and exists (
            select
            from on_tables as o
            where o.virtualtransaction = t.virtualtransaction
                and o.relation = 'rota.live_jobs'::regclass
                and o.mode in ('RowShareLock', 'RowExclusiveLock')
        )
$$;

comment on function rota._row_lockers is
    'List the open and prepared transactions that may have locked jobs, other than our own.';
