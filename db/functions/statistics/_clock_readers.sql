-- A finish reads the clock first, then locks its job, for which it may have to wait, and only that
-- gives its transaction an id. What can be seen of it meanwhile is that it has opened live_jobs to
-- lock rows, or waits for that. Left out is who has an id older than the caller's, who must have
-- one: of these the ids tell when they have ended.
create or replace function rota._clock_readers()
    returns text[]
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    with held as materialized (
        select l.*
        from pg_catalog.pg_locks as l
        where l.pid is distinct from pg_backend_pid()
    )
    select array(
        select distinct h.virtualtransaction
        from held as h
        where h.locktype = 'relation'
            and h.relation = 'rota.live_jobs'::regclass
            and h.database = (
                select d.oid from pg_catalog.pg_database as d where d.datname = current_database()
            )
            and h.mode in ('RowShareLock', 'RowExclusiveLock')
            and not exists (
                select
                from held as i
                where i.virtualtransaction = h.virtualtransaction
                    and i.locktype = 'transactionid'
                    and i.mode = 'ExclusiveLock'
                    and age(i.transactionid) > 0
            )
        order by h.virtualtransaction
    )
$$;

comment on function rota._clock_readers is
    'List the transactions that may be about to end an attempt, but for those with an older id.';
