-- depends: 0007_chores

-- What a worker says of itself at its last announcement; null from one that does not say it.
alter table rota.workers
    add column if not exists tasks text[],  -- those it has handlers for
    add column if not exists overrun integer,  -- places held by handlers whose attempts are over
    add column if not exists clock timestamptz;  -- its own, when ours showed last_seen_at

create or replace view rota.worker_status as
select
    w.worker,
    w.host,
    w.pid,
    w.queues,
    w.concurrency,
    w.version,
    w.started_at,
    w.last_seen_at,
    w.stopped_at,
    coalesce(r.running, 0) as running,
    w.tasks,
    w.overrun,
    case when w.stopped_at is null then w.clock - w.last_seen_at end as clock_difference
from rota.workers as w
left join (
    select j.worker, count(*) as running
    from rota.live_jobs as j
    where j.state = 'RUNNING'
    group by j.worker
) as r on r.worker = w.worker;
