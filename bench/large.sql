-- A large house, written directly, for measurements only: 1,000,000 live jobs, of which 400,000 are
-- due and 2,000 run, and 5,600,000 that ended, over eight weeks and in ten busy minutes. By ten
-- queues and four tasks each. What runs has its lease for a month, so nothing is taken back. Workers are told
-- of that serve eight of the queues; one queue is paused.
set session_replication_role = replica;  -- the rows are as they must be
set synchronous_commit = off;

insert into rota.queues (name)
select 'q' || n
from generate_series(0, 9) as n;

update rota.queues
set paused_at = now() - interval '2 hours'
where name = 'q9';

insert into rota.lanes (queue, priority)
select 'q' || n, p
from generate_series(0, 9) as n
cross join (values (0), (5)) as v(p);

select
    rota._make_partition('finished_jobs', now() - w * interval '7 days'),
    rota._make_partition('attempts', now() - w * interval '7 days')
from generate_series(1, 9) as w;

-- Eight weeks: 97 of 100 COMPLETED, 2 FAILED after four attempts, 1 CANCELLED.
insert into rota.finished_jobs (
    id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run, attempt,
    max_retries, timeout, worker, cancel_requested_at, cancel_reason, last_error, result,
    created_at, started_at, finished_at, token
)
select
    e.id, 't' || e.id % 40, jsonb_build_object('user', e.id, 'to', 'ada@example.com'),
    'q' || e.id % 10, case when e.id % 20 = 0 then 5 else 0 end, e.state, 'ONE_TIME',
    e.ended_at - interval '2 s', e.ended_at - interval '2 s', 1, e.attempt, 3, interval '1 minute',
    'worker-' || e.id % 50,
    case e.state when 'CANCELLED' then e.ended_at end,
    case e.state when 'CANCELLED' then 'not needed' end,
    case e.state when 'FAILED' then
        'Traceback (most recent call last):' || chr(10) || 'ConnectionError: refused by host '
            || e.id % 7
    end,
    case e.state when 'COMPLETED' then to_jsonb(e.id) end,
    e.ended_at - interval '3 s', e.ended_at - e.ran, e.ended_at,
    case e.state when 'COMPLETED' then gen_random_uuid() end
from (
    select
        n as id,
        case when n % 100 < 97 then 'COMPLETED' when n % 100 < 99 then 'FAILED' else 'CANCELLED' end
            as state,
        case when n % 100 between 97 and 98 then 4 else 1 end as attempt,
        interval '1 ms' * (5 + n % 400) as ran,
        case
            when n <= 5000000 then now() - interval '56 days'
                + (n / 5000000.0) * (interval '56 days' - interval '30 minutes')
            else now() - interval '25 minutes' + ((n - 5000000) / 600000.0) * interval '10 minutes'
        end as ended_at
    from generate_series(1, 5600000) as n
) as e;

insert into rota.attempts (
    job_id, run, attempt, outcome, worker, token, scheduled_for, started_at, finished_at, error,
    job_state, next_run_at
)
select
    f.id, 1, a, case a % 3 when 0 then 'TIMED_OUT' else 'FAILED' end, f.worker,
    gen_random_uuid(), f.scheduled_for, f.finished_at - (4.2 - a) * interval '1 second',
    f.finished_at - (4 - a) * interval '1 second', f.last_error,
    case a when 4 then 'FAILED' else 'SCHEDULED' end,
    case when a < 4 then f.finished_at - (3.5 - a) * interval '1 second' end
from rota.finished_jobs as f
cross join generate_series(1, 4) as a
where f.state = 'FAILED';

insert into rota.live_jobs (
    id, task, payload, queue, priority, state, run_at, scheduled_for, attempt, max_retries, timeout,
    token, worker, lease_until, started_at, last_error, created_at
)
select
    5600000 + t.n, 't' || t.n % 40, jsonb_build_object('user', t.n, 'to', 'ada@example.com'),
    'q' || t.n % 10, case when t.n % 20 = 0 then 5 else 0 end,
    case when t.runs then 'RUNNING' else 'SCHEDULED' end, t.run_at, t.run_at,
    case when t.runs or t.n % 50 = 0 then 1 else 0 end, 3, interval '1 hour',
    case when t.runs then gen_random_uuid() end,
    case when t.runs then 'worker-' || t.n % 50 end,
    case when t.runs then now() + interval '30 days' end,
    case when t.runs then now() - t.n * interval '10 ms' end,
    case when not t.runs and t.n % 50 = 0 then 'ConnectionError: refused' end,
    now() - interval '80 minutes'
from (
    select n, n <= 2500 and n % 10 < 8 as runs, case
        when n <= 402000 then now() - interval '75 minutes' + n * interval '10 ms'
        else now() + (n - 402000) * interval '4 s'
    end as run_at
    from generate_series(1, 1000000) as n
) as t;

-- One schedule of every minute, with its history, and twenty of every hour.
insert into rota.live_jobs (
    id, task, payload, queue, priority, schedule_type, run_at, scheduled_for, run, max_retries,
    name, created_at
)
select
    6700000 + n, 't1', '{}', 'q1', 0, 'INTERVAL', date_trunc('hour', now()) + interval '40 days',
    date_trunc('hour', now()) + interval '40 days', 80641, 3, 'schedule-' || n,
    now() - interval '56 days'
from generate_series(0, 20) as n;

insert into rota.schedules (
    job_id, every, time_zone, starts_at, fixed_delay, jitter, misfire, misfire_cap, overlap
)
select
    6700000 + n, case n when 0 then interval '1 minute' else interval '1 hour' end, 'UTC',
    date_trunc('hour', now()) - interval '56 days', false, '0', 'once', 10, 'coalesce'
from generate_series(0, 20) as n;

insert into rota.attempts (
    job_id, run, attempt, outcome, worker, token, scheduled_for, started_at, finished_at, job_state
)
select
    6700000, n, 1, 'SUCCEEDED', 'worker-1', gen_random_uuid(), t.at, t.at, t.at + interval '1 s',
    'SCHEDULED'
from generate_series(1, 80640) as n
cross join lateral (
    select date_trunc('minute', now()) - (80641 - n) * interval '1 minute'
) as t(at);

select setval('rota.job_ids', 6800000);

-- How deep forty queues were: eight days by minute, seven weeks by hour.
insert into rota.depths (minute, seconds, queue, scheduled, due, running)
select date_trunc('minute', now()) - n * interval '1 minute', 60, 'q' || q, n % 1000, n % 77, n % 13
from generate_series(1, 11520) as n
cross join generate_series(0, 39) as q
union all
select date_trunc('hour', now()) - n * interval '1 hour', 3600, 'q' || q, n % 1000, n % 77, n % 13
from generate_series(193, 1344) as n
cross join generate_series(0, 39) as q;

insert into rota.workers (
    worker, host, pid, queues, concurrency, version, started_at, last_seen_at, tasks, overrun, clock
)
select
    'worker-' || n, 'host-' || n % 5, 1000 + n,
    array(select 'q' || q from generate_series(0, 7) as q), 64, rota.version(),
    now() - interval '1 day', now(), array(select 't' || t from generate_series(0, 39) as t), 0,
    now()
from generate_series(0, 49) as n;

reset session_replication_role;
