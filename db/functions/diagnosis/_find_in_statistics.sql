-- A transaction that has an id, as who has finished a job, and stays open holds the minutes up
-- (roll_up), of whatever database of the server it is; so does one that had read the clock by then.
-- A house in which nobody works counts nothing, and is not ill for that. A note of the ids of
-- another server is none.
create or replace function rota._find_in_statistics(at timestamptz)
    returns setof rota.finding
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with kept as materialized (
        select
            max(c.ran_at) filter (where c.chore = 'take_census') as census_at,
            max(c.until) filter (where c.chore = 'roll_up') as counted_until,
            max(c.ready_until) filter (where c.chore = 'roll_up') as ready_until,
            max(c.xid::text) filter (where c.chore = 'roll_up')::xid8 as xid,
            max(c.readers) filter (where c.chore = 'roll_up') as readers,
            exists (
                select
                from rota.workers as w
                where w.stopped_at is null
                    and w.version is not null
                    and w.last_seen_at > at - interval '90 seconds'
                    and w.started_at < at - interval '5 minutes'
            ) as has_workers
        from rota.chores as c
    ), holders as materialized (
        select
            format(
                'Session %s (%s)', a.pid, concat_ws(
                    ', ', a.usename, nullif(a.application_name, ''), 'database ' || a.datname
                )
            ) as who,
            a.xact_start as since,
            format('Let it end, or: select pg_terminate_backend(%s)', a.pid) as remedy,
            jsonb_build_object('pid', a.pid) as about
        from kept as k
        cross join pg_catalog.pg_stat_activity as a
        where k.ready_until < at - interval '10 minutes'
            and a.pid <> pg_backend_pid()
            and (
                k.xid < pg_snapshot_xmax(pg_current_snapshot())
                and age(a.backend_xid) >= age(k.xid::xid)
                or exists (
                    select
                    from pg_catalog.pg_locks as l
                    where l.pid = a.pid and l.virtualtransaction = any(k.readers)
                )
            )

        union all
        select
            format('The prepared transaction %L of %s, database %s', p.gid, p.owner, p.database),
            p.prepared,
            format('commit prepared %1$L, or rollback prepared %1$L', p.gid),
            jsonb_build_object('gid', p.gid)
        from kept as k
        cross join pg_catalog.pg_prepared_xacts as p
        where k.ready_until < at - interval '10 minutes'
            and (
                k.xid < pg_snapshot_xmax(pg_current_snapshot())
                and age(p.transaction) >= age(k.xid::xid)
                or '-1/' || p.transaction = any(k.readers)
            )
    ), oldest as materialized (
        select h.*
        from holders as h
        order by h.since
        limit 1
    )
    select
        'warning' as severity,
        'statistics' as "check",
        format(
            'Minutes are counted up to %s only: %s has been open for %s, and may have ended jobs'
            ' after that.',
            rota._utc_text(k.counted_until), o.who, rota._rough_span(at - o.since)
        ) as finding,
        o.remedy,
        o.about || jsonb_build_object(
            'counted_until', k.counted_until, 'since', o.since
        ) as evidence
    from kept as k
    cross join oldest as o

    union all
    select
        'warning',
        'statistics',
        format(
            'Minutes are counted up to %s only, though workers are there.',
            coalesce(rota._utc_text(k.counted_until), 'no moment')
        ),
        'select roll_up(), which workers call; the server''s log has a warning if that fails.',
        jsonb_build_object('counted_until', k.counted_until)
    from kept as k
    where k.has_workers
        and coalesce(k.counted_until, '-infinity') < at - interval '10 minutes'
        and not exists (select from oldest)

    union all
    select
        'warning',
        'statistics',
        format(
            'What waits and runs was last counted %s, though workers are there.',
            coalesce(rota._rough_span(at - k.census_at) || ' ago', 'never')
        ),
        'select take_census(), which workers call; the server''s log has a warning if that fails.',
        jsonb_build_object('census_at', k.census_at)
    from kept as k
    where k.has_workers and coalesce(k.census_at, '-infinity') < at - interval '15 minutes'
$$;

comment on function rota._find_in_statistics is
    'Find what holds up the counts of jobs.';
