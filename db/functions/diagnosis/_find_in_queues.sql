-- What waits and runs is read off the census of census_at, or counted here if that is null; what is
-- said of it is said as of then. What waits for room under a limit is no backlog, nor is what waits
-- for other jobs; of that the edges tell. One more pass over the live jobs is made if a transaction
-- that may hold some is older than ten seconds. A worker is alive that spoke within three of its
-- announcements; one in SQL need not, and shows by what it runs.
drop function if exists rota._find_in_queues(timestamptz);

create or replace function rota._find_in_queues(at timestamptz, census_at timestamptz)
    returns setof rota.finding
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with counted as materialized (
        select c.*
        from rota.census as c
        where census_at is not null
        union all
        select n.*
        from rota._count_live(at) as n
        where census_at is null
    ), live as materialized (
        select
            c.queue,
            coalesce(census_at, at) as counted_at,
            sum(c.due) as due,
            sum(c.no_room) as no_room,
            sum(c.due - c.no_room) as startable,
            min(c.oldest_with_room_at) as oldest_due_at,
            sum(c.running - c.lost) as running,
            sum(c.lost) as lost,
            min(c.lost_since) as lost_since,
            sum(c.overdue) as overdue,
            min(c.overdue_since) as overdue_since
        from counted as c
        group by c.queue
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
    ), stranded as materialized (
        select w.job_id
        from rota.job_waits as w
        where not exists (
            select
            from rota.job_dependencies as d
            join rota.live_jobs as p on p.id = d.parent_id
            where d.child_id = w.job_id
        )
    )
    select
        'critical' as severity,
        'recovery' as "check",
        format(
            'The leases of %s jobs in queue %s ran out, the first %s ago, and nobody takes them'
            ' back.',
            k.lost, k.queue, rota._rough_span(k.counted_at - k.lost_since)
        ) as finding,
        'Start a worker, or: select recover_jobs()' as remedy,
        jsonb_build_object(
            'queue', k.queue,
            'jobs', k.lost,
            'since', k.lost_since,
            'counted_at', k.counted_at
        ) as evidence
    from known as k
    where k.lost_since < k.counted_at - interval '1 minute'

    union all
    select
        'critical',
        'unserved queue',
        format(
            '%s jobs are due in queue %s, the oldest for %s, and no live worker serves it.',
            k.startable, k.queue, rota._rough_span(k.counted_at - k.oldest_due_at)
        ),
        'rota worker --queues ' || rota._shell_word(k.queue),
        jsonb_build_object(
            'queue', k.queue,
            'due', k.startable,
            'oldest_due_at', k.oldest_due_at,
            'counted_at', k.counted_at
        ) || case when k.no_room > 0 then jsonb_build_object('no_room', k.no_room) else '{}' end
    from known as k
    where k.oldest_due_at < k.counted_at - interval '1 minute'
        and not k.is_served
        and k.paused_at is null

    union all
    select
        'warning',
        'backlog',
        format(
            'The oldest of %s due jobs in queue %s has waited for %s, though it is served; %s run.',
            k.startable, k.queue, rota._rough_span(k.counted_at - k.oldest_due_at), k.running
        ),
        'Start more workers; explain_job says of a job what it waits for.',
        jsonb_build_object(
            'queue', k.queue,
            'due', k.startable,
            'oldest_due_at', k.oldest_due_at,
            'running', k.running,
            'counted_at', k.counted_at
        ) || case when k.no_room > 0 then jsonb_build_object('no_room', k.no_room) else '{}' end
    from known as k
    where k.oldest_due_at < k.counted_at - interval '15 minutes'
        and k.is_served
        and k.paused_at is null

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
            '%s jobs of queue %s run longer than their timeout, the first by %s.',
            k.overdue, k.queue, rota._rough_span(k.counted_at - k.overdue_since)
        ),
        'Their handlers do not give way: restart the workers, and mend the handlers. Which they'
            ' are: select id, task, worker from jobs where state = ''RUNNING'''
            ' and started_at + timeout < now()',
        jsonb_build_object(
            'queue', k.queue,
            'jobs', k.overdue,
            'since', k.overdue_since,
            'counted_at', k.counted_at
        )
    from known as k
    where k.overdue_since < k.counted_at - interval '1 minute'

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

    union all
    select
        'critical',
        'stranded jobs',
        format(
            '%s jobs of queue %s, such as job %s, wait for others, but none that lives leads to'
            ' them: they would wait for ever.',
            count(*), j.queue, min(j.id)
        ),
        'select maintain(), which workers call every hour.',
        jsonb_build_object('queue', j.queue, 'jobs', count(*), 'one_of_them', min(j.id))
    from stranded as s
    join rota.live_jobs as j on j.id = s.job_id
    group by j.queue
$$;

comment on function rota._find_in_queues is
    'Find jobs that nobody runs, takes back, or can claim.';
