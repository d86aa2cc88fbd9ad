-- One pass over the live jobs, and one more if a transaction that may hold some is older than ten
-- seconds. A worker is alive that spoke within three of its announcements; one in SQL need not, and
-- shows by what it runs.
create or replace function rota._find_in_queues(at timestamptz)
    returns setof rota.finding
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with live as materialized (
        select
            j.queue::text as queue,
            count(*) filter (where j.state = 'SCHEDULED' and j.run_at <= at) as due,
            min(j.run_at::timestamptz) filter (
                where j.state = 'SCHEDULED' and j.run_at <= at
            ) as oldest_due_at,
            count(*) filter (where j.lease_until >= at) as running,
            count(*) filter (where j.lease_until < at) as lost,
            min(j.lease_until::timestamptz) filter (where j.lease_until < at) as lost_since,
            count(*) filter (
                where j.lease_until >= at
                    and j.started_at + j.timeout::interval < at - interval '1 minute'
            ) as over_timeout,
            min(j.id) filter (
                where j.lease_until >= at
                    and j.started_at + j.timeout::interval < at - interval '1 minute'
            ) as one_over_timeout
        from rota.live_jobs as j
        group by j.queue
    ), known as materialized (
        select
            l.*,
            q.paused_at,
            l.running > 0 or exists (
                select
                from rota.workers as w
                where w.stopped_at is null
                    and w.last_seen_at > at - interval '90 seconds'
                    and l.queue = any(w.queues)
            ) as is_served
        from live as l
        left join rota.queues as q on q.name = l.queue
    ), lockers as materialized (
        select h.*
        from rota._row_lockers() as h
        where h.since < at - interval '10 seconds' and not h.only_refers
    ), held as materialized (
        select j.queue::text as queue, count(*) as jobs, min(j.id) as one
        from rota.live_jobs as j
        where exists (select from lockers)
            and j.xmax = any(array(select h.xid from lockers as h))
            and j.state = 'SCHEDULED'
            and j.run_at <= at
        group by j.queue
    )
    select
        'critical' as severity,
        'recovery' as "check",
        format(
            'The leases of %s jobs in queue %s ran out, the first %s ago, and nobody takes them'
            ' back.',
            k.lost, k.queue, rota._rough_span(at - k.lost_since)
        ) as finding,
        'Start a worker, or: select recover_jobs()' as remedy,
        jsonb_build_object(
            'queue', k.queue, 'jobs', k.lost, 'since', k.lost_since
        ) as evidence
    from known as k
    where k.lost_since < at - interval '1 minute'

    union all
    select
        'critical',
        'unserved queue',
        format(
            '%s jobs are due in queue %s, the oldest for %s, and no live worker serves it.',
            k.due, k.queue, rota._rough_span(at - k.oldest_due_at)
        ),
        'rota worker --queues ' || rota._shell_word(k.queue),
        jsonb_build_object('queue', k.queue, 'due', k.due, 'oldest_due_at', k.oldest_due_at)
    from known as k
    where k.oldest_due_at < at - interval '1 minute'
        and not k.is_served
        and k.paused_at is null

    union all
    select
        'warning',
        'backlog',
        format(
            'The oldest of %s due jobs in queue %s has waited for %s, though it is served; %s run.',
            k.due, k.queue, rota._rough_span(at - k.oldest_due_at), k.running
        ),
        'Start more workers; explain_job says of a job what it waits for.',
        jsonb_build_object(
            'queue', k.queue, 'due', k.due, 'oldest_due_at', k.oldest_due_at, 'running', k.running
        )
    from known as k
    where k.oldest_due_at < at - interval '15 minutes' and k.is_served and k.paused_at is null

    union all
    select
        case when q.paused_at < at - interval '1 day' then 'warning' else 'note' end,
        'paused queue',
        format(
            'Queue %s was paused %s ago, and %s jobs are due in it.',
            q.name, rota._rough_span(at - q.paused_at), coalesce(l.due, 0)
        ),
        format('select resume_queue(%L)', q.name),
        jsonb_build_object('queue', q.name, 'paused_at', q.paused_at, 'due', coalesce(l.due, 0))
    from rota.queues as q
    left join live as l on l.queue = q.name
    where q.paused_at is not null

    union all
    select
        'warning',
        'locked jobs',
        format(
            '%s due jobs of queue %s, such as job %s, are locked by other transactions: claims'
            ' pass by them.',
            h.jobs, h.queue, h.one
        ),
        format('select * from explain_job(%s), which names the session', h.one),
        jsonb_build_object('queue', h.queue, 'jobs', h.jobs, 'one_of_them', h.one)
    from held as h

    union all
    select
        'warning',
        'timeout',
        format(
            '%s jobs of queue %s, such as job %s, run longer than their timeout.',
            k.over_timeout, k.queue, k.one_over_timeout
        ),
        'Their handlers do not give way: restart the workers, and mend the handlers.',
        jsonb_build_object(
            'queue', k.queue, 'jobs', k.over_timeout, 'one_of_them', k.one_over_timeout
        )
    from known as k
    where k.over_timeout > 0

    union all
    select
        'warning',
        'no handler',
        format(
            '%s jobs of queue %s wait for a worker with a handler for task %s.',
            count(*), m.queue, m.task
        ),
        'Start a worker with the module of that handler (--tasks).',
        jsonb_build_object('queue', m.queue, 'task', m.task, 'jobs', count(*))
    from rota.unhandled_jobs as m
    join rota.live_jobs as j on j.id = m.job_id and j.run_at = m.until
    where j.state = 'SCHEDULED'
    group by m.queue, m.task
$$;

comment on function rota._find_in_queues is
    'Find jobs that nobody runs, takes back, or can claim.';
