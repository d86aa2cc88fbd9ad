-- depends: 0002_tables

-- Since 0010_attempts the views stand in db/views.sql, which every deploy applies.
do $$
begin
    if to_regclass('rota.attempts') is not null then
        return;
    end if;

    -- What people read. A view runs with its owner's rights, so a reader needs none on the tables.
    -- The casts give both halves of the jobs the same types, without which a condition on the view
    -- would not reach the indexes.

    create or replace view rota.jobs as
    select
        j.id,
        j.task::text as task,
        j.state::rota.job_state as state,
        j.schedule_type,
        j.queue::text as queue,
        j.priority::integer as priority,
        nullif(j.run_at::timestamptz, 'infinity') as run_at,
        j.attempt,
        j.max_retries::integer as max_retries,
        j.payload,
        null::jsonb as result,
        j.last_error,
        j.unique_key::text as unique_key,
        j.name::text as name,
        j.worker,
        j.lease_until::timestamptz as lease_until,
        j.created_at,
        j.started_at,
        null::timestamptz as finished_at,
        j.scheduled_for,
        j.run::bigint as run,
        j.timeout::interval as timeout,
        j.progress,
        j.cancel_requested_at,
        j.cancel_reason
    from rota.live_jobs as j
    union all
    select
        f.id,
        f.task,
        f.state::rota.job_state,
        f.schedule_type,
        f.queue,
        f.priority,
        nullif(f.run_at, 'infinity'),
        f.attempt,
        f.max_retries,
        f.payload,
        f.result,
        f.last_error,
        f.unique_key,
        f.name,
        f.worker,
        null,
        f.created_at,
        f.started_at,
        f.finished_at,
        f.scheduled_for,
        f.run,
        f.timeout,
        f.progress,
        f.cancel_requested_at,
        f.cancel_reason
    from rota.finished_jobs as f;

    comment on view rota.jobs is
        'Every job that is live or still kept.';

    -- Attempts that ended, and those under way, which are read from the live job.
    create or replace view rota.executions as
    select
        e.job_id,
        e.run,
        e.attempt,
        e.outcome::text as outcome,
        e.worker,
        e.started_at,
        e.finished_at,
        e.error,
        e.result
    from rota.job_executions as e
    union all
    select
        j.id,
        j.run::bigint,
        j.attempt,
        'RUNNING',
        j.worker,
        j.started_at,
        null,
        null,
        null
    from rota.live_jobs as j
    where j.state = 'RUNNING';

    comment on view rota.executions is
        'Every attempt, ended or RUNNING.';

    create or replace view rota.schedule_status as
    select
        j.id as job_id,
        j.name,
        j.task,
        j.payload,
        j.queue,
        j.priority,
        j.max_retries,
        j.timeout,
        j.schedule_type,
        s.every,
        s.cron,
        s.time_zone,
        s.starts_at,
        s.ends_at,
        s.max_runs,
        s.fixed_delay,
        s.jitter,
        s.misfire,
        s.misfire_cap,
        s.max_lateness,
        s.overlap,
        s.paused_at,
        j.state,
        j.run,
        j.scheduled_for,
        nullif(j.run_at, 'infinity') as run_at,
        j.last_error,
        j.created_at
    from rota.live_jobs as j
    join rota.schedules as s on s.job_id = j.id;

    comment on view rota.schedule_status is
        'Every live schedule: its definition, its present run, and the next.';

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
        from (select distinct l.queue from rota.lanes as l) as names
        left join rota.live_jobs as j on j.queue = names.queue
        group by names.queue
    ) as n on n.queue = q.name;

    comment on view rota.queue_status is
        'Every queue that has had a job or a setting, with what waits and runs in it now.';

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
        coalesce(r.running, 0) as running
    from rota.workers as w
    left join (
        select j.worker, count(*) as running
        from rota.live_jobs as j
        where j.state = 'RUNNING'
        group by j.worker
    ) as r on r.worker = w.worker;

    comment on view rota.worker_status is
        'Worker processes that announced themselves, with the number of jobs each runs now.';
end;
$$;
