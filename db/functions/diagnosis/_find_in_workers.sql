-- A worker is forgotten a day after its last word (maintain); one that fell silent is news for an
-- hour. What a worker tells of its clock it told half a minute ago at most, so a second or two of
-- difference may be the way that its message took.
-- One that works over HTTP is announced by the API when it claims, and says neither its version nor
-- that it stops: that it is silent tells nothing.
create or replace function rota._find_in_workers(at timestamptz)
    returns setof rota.finding
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with known as materialized (
        select
            w.*,
            w.last_seen_at > at - interval '90 seconds' as is_alive,
            jsonb_build_object(
                'worker', w.worker,
                'host', w.host,
                'pid', w.pid,
                'queues', w.queues,
                'last_seen_at', w.last_seen_at
            ) as about
        from rota.workers as w
        where w.stopped_at is null
    )
    select
        'critical' as severity,
        'workers' as "check",
        'No worker has spoken in the last 90 seconds, and they did not say that they stop.'
            as finding,
        'rota worker' as remedy,
        jsonb_build_object('last_seen_at', max(k.last_seen_at)) as evidence
    from known as k
    having not bool_or(k.is_alive) and bool_or(k.version is not null)

    union all
    select
        'warning',
        'silent worker',
        format(
            'Worker %s (%s, pid %s) has not spoken for %s, and did not say that it stops.',
            k.worker, k.host, k.pid, rota._rough_span(at - k.last_seen_at)
        ),
        'Look at its process and its machine; its jobs are taken back when their leases end.',
        k.about
    from known as k
    where not k.is_alive
        and k.last_seen_at > at - interval '1 hour'
        and k.version is not null

    union all
    select
        'warning',
        'version',
        format(
            '%s workers have version %s, and the database has %s.',
            count(*), left(k.version, 12), left(rota.version(), 12)
        ),
        'Restart them from the checkout that was deployed.',
        jsonb_build_object('workers', jsonb_agg(k.worker), 'version', k.version)
    from known as k
    where k.is_alive and k.version <> rota.version()
    group by k.version

    union all
    select
        'warning',
        'clock',
        format(
            'The clock of worker %s on %s differs from the database''s by %s s.',
            k.worker, k.host, round(extract(epoch from k.clock - k.last_seen_at), 1)
        ),
        'See to the time (NTP) of both machines; what handlers compute from theirs is off by that.',
        k.about || jsonb_build_object('clock', k.clock)
    from known as k
    where k.is_alive
        and k.clock not between k.last_seen_at - interval '5 s' and k.last_seen_at + interval '5 s'

    union all
    select
        'warning',
        'clock',
        format(
            'Worker %s was seen %s in the future: the clock of the database was put back.',
            k.worker, rota._rough_span(k.last_seen_at - at)
        ),
        'See to the time (NTP) of the database''s machine: leases and schedules go by it.',
        k.about
    from known as k
    where k.last_seen_at > at + interval '5 seconds'

    union all
    select
        case when k.overrun >= k.concurrency then 'critical' else 'warning' end,
        'overrun',
        format(
            '%s of the %s places of worker %s on %s are held by handlers that go on though their'
            ' attempts are over.',
            k.overrun, k.concurrency, k.worker, k.host
        ),
        'Restart that worker; have its handlers look at job.cancelled.',
        k.about || jsonb_build_object('overrun', k.overrun, 'concurrency', k.concurrency)
    from known as k
    where k.is_alive and k.overrun > 0
$$;

comment on function rota._find_in_workers is
    'Find workers that are silent, held up, or of another version or time.';
