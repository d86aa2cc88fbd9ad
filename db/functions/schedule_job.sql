-- With a name, the partial unique index on live names decides, as it does for unique_key in
-- enqueue_job: insert, or find the holder and lock it, or turn round because it just ended. A
-- holder that RUNS keeps its lease and its slot; finish_job finds the new definition and takes the
-- next slot from it. Lock order: the job's row, then its schedule.
create or replace function rota.schedule_job(
    task text,
    payload jsonb default '{}',
    every interval default null,
    cron text default null,
    time_zone text default 'UTC',
    starts_at timestamptz default null,
    name text default null,
    misfire text default 'once',
    queue text default 'default',
    priority integer default 0,
    max_retries integer default null,
    timeout interval default null
)
    returns rota.enqueued_job
    language plpgsql
    volatile
    security definer
    set search_path = ''
    set enable_seqscan = off
as $$
declare
    v_now timestamptz := rota._now();
    v_starts_at timestamptz := coalesce(starts_at, v_now);
    v_first timestamptz;
    v_job rota.enqueued_job;
begin
    perform rota._check_schedule(
        task, payload, every, cron, time_zone, starts_at, name, misfire, queue, priority,
        max_retries, timeout
    );

    v_first := rota._slot_after(
        every, cron, time_zone, v_starts_at, greatest(v_starts_at, v_now) - interval '1 microsecond'
    );

    perform rota._use_lane(queue, priority);

    loop
        insert into rota.live_jobs as j (
            task, payload, queue, priority, schedule_type, run_at, scheduled_for,
            max_retries, timeout, name, created_at
        )
        select
            schedule_job.task,
            schedule_job.payload,
            schedule_job.queue,
            schedule_job.priority,
            case when cron is null then 'INTERVAL' else 'CRON' end,
            v_first,
            v_first,
            coalesce(schedule_job.max_retries, q.max_retries, 3),
            coalesce(schedule_job.timeout, q.timeout),
            schedule_job.name,
            v_now
        from (select) as one
        left join rota.queues as q on q.name = schedule_job.queue
        on conflict ((j.name)) where j.name is not null do nothing
        returning j.id, true into v_job;

        exit when v_job.created;

        update rota.live_jobs as j
        set task = schedule_job.task,
            payload = schedule_job.payload,
            queue = schedule_job.queue,
            priority = schedule_job.priority,
            schedule_type = case when cron is null then 'INTERVAL' else 'CRON' end,
            run_at = case j.state when 'SCHEDULED' then v_first else j.run_at end,
            scheduled_for = case j.state when 'SCHEDULED' then v_first else j.scheduled_for end,
            max_retries = greatest(
                coalesce(schedule_job.max_retries, j.max_retries),
                case j.state when 'RUNNING' then j.attempt - 1 else 0 end
            ),
            attempt = case j.state when 'SCHEDULED' then 0 else j.attempt end,
            timeout = coalesce(schedule_job.timeout, j.timeout)
        where j.name = schedule_job.name
        returning j.id, false into v_job;

        exit when found;
    end loop;

    insert into rota.schedules as s (job_id, every, cron, time_zone, starts_at, misfire)
    values (v_job.job_id, every, cron, time_zone, v_starts_at, misfire)
    on conflict (job_id) do update
    set every = excluded.every,
        cron = excluded.cron,
        time_zone = excluded.time_zone,
        starts_at = excluded.starts_at,
        misfire = excluded.misfire;

    if v_first <= v_now then
        perform rota._wake(queue);
    end if;

    return v_job;
end;
$$;

comment on function rota.schedule_job is
    'Add a job that runs again and again, or update the one of this name.';
