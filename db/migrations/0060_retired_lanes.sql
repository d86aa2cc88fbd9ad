-- depends: 0007_chores

-- A lane of a queue that was deleted. Its row stays: an enqueue that saw the lane before may commit
-- its job after the deletion, and claims must know where to look for it. Nobody is shown the queue
-- any more, and the next enqueue adds a lane anew (_use_lane).
alter table rota.lanes add column if not exists retired_at timestamptz;

create or replace view rota.queue_status as
select
    coalesce(q.name, n.queue) as queue,
    q.paused_at,
    q.max_retries,
    q.backoff_base,
    q.backoff_cap,
    q.timeout,
    coalesce(n.scheduled, 0) as scheduled,
    coalesce(n.due, 0) as due,
    coalesce(n.running, 0) as running,
    n.oldest_due_at
from rota.queues as q
full join (
    select
        names.queue,
        count(j.id) filter (where j.state = 'SCHEDULED') as scheduled,
        count(j.id) filter (
            where j.state = 'SCHEDULED' and j.run_at <= clock_timestamp()
        ) as due,
        count(j.id) filter (where j.state = 'RUNNING') as running,
        min(j.run_at) filter (
            where j.state = 'SCHEDULED' and j.run_at <= clock_timestamp()
        ) as oldest_due_at
    from (
        select l.queue, bool_and(l.retired_at is not null) as retired
        from rota.lanes as l
        group by l.queue
    ) as names
    left join rota.live_jobs as j on j.queue = names.queue
    group by names.queue, names.retired
    having not names.retired or count(j.id) > 0
) as n on n.queue = q.name;
