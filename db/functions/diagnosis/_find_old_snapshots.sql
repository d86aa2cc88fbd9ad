-- Whatever keeps PostgreSQL from removing dead rows: the oldest transaction that a snapshot may
-- still see, whether of a session, a standby, a replication slot or a prepared transaction. Of
-- our own finished jobs each leaves such a row, so tables and indexes grow until it ends.
-- What a session runs is not told: it may hold secrets, and who asks need not be allowed to see it.
create or replace function rota._find_old_snapshots(at timestamptz)
    returns setof rota.finding
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        case when h.since < at - interval '1 hour' or h.xids > 10000000
            then 'critical' else 'warning'
        end as severity,
        'old snapshot' as "check",
        format(
            '%s has kept dead rows from being removed%s, over %s transactions.',
            h.who, ' for ' || rota._rough_span(at - h.since), h.xids
        ) as finding,
        h.remedy,
        jsonb_build_object('since', h.since, 'transactions', h.xids) || h.about as evidence
    from (
        select
            format(
                'Session %s (%s), %s,', a.pid,
                concat_ws(', ', a.usename, nullif(a.application_name, '')), a.state
            ) as who,
            a.xact_start as since,
            greatest(age(a.backend_xmin), age(a.backend_xid)) as xids,
            format('Let it end, or: select pg_terminate_backend(%s)', a.pid) as remedy,
            jsonb_build_object('pid', a.pid) as about
        from pg_catalog.pg_stat_activity as a
        where a.backend_type = 'client backend'
            and a.datname = current_database()
            and a.pid <> pg_backend_pid()
            and (a.backend_xmin is not null or a.backend_xid is not null)
            and a.xact_start < at - interval '5 minutes'

        union all
        select
            format('The standby %s', coalesce(nullif(a.application_name, ''), a.pid::text)),
            null,
            age(a.backend_xmin),
            'Look for its long queries, or turn its hot_standby_feedback off.',
            jsonb_build_object('pid', a.pid)
        from pg_catalog.pg_stat_activity as a
        where a.backend_type = 'walsender' and age(a.backend_xmin) > 1000000

        union all
        select
            format('The replication slot %s', s.slot_name),
            null,
            age(s.xmin),
            format(
                'Look at who uses it; if nobody: select pg_drop_replication_slot(%L)', s.slot_name
            ),
            jsonb_build_object('slot', s.slot_name, 'active', s.active)
        from pg_catalog.pg_replication_slots as s
        where age(s.xmin) > 1000000

        union all
        select
            format('The prepared transaction %L of %s', p.gid, p.owner),
            p.prepared,
            age(p.transaction),
            format('commit prepared %1$L, or rollback prepared %1$L', p.gid),
            jsonb_build_object('gid', p.gid)
        from pg_catalog.pg_prepared_xacts as p
        where p.database = current_database() and p.prepared < at - interval '5 minutes'
    ) as h

    union all
    select
        'warning',
        'replication slot',
        format(
            'Nobody reads from the replication slot %s, and the server keeps WAL for it.',
            s.slot_name
        ),
        format(
            'Start its reader; if there is none: select pg_drop_replication_slot(%L)', s.slot_name
        ),
        jsonb_build_object('slot', s.slot_name, 'wal_status', s.wal_status)
    from pg_catalog.pg_replication_slots as s
    where not s.active and s.restart_lsn is not null
$$;

comment on function rota._find_old_snapshots is
    'Find what keeps dead rows, or WAL, from being removed.';
