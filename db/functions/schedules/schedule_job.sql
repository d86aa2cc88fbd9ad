drop function if exists rota.schedule_job(
    text, jsonb, interval, text, text, timestamptz, text, text, text, integer, integer, interval,
    timestamptz, bigint, boolean, interval, integer, interval, text, jsonb
);

-- With a name, the partial unique index on live names decides, as it does for unique_key in
-- enqueue_job: find the holder and lock it, or insert, or turn round because somebody else did, or
-- because the holder just ended. Lock order: the job's row, then its schedule.
-- An update keeps the id and loses or doubles no slot: one that runs, is due, or waits for a retry
-- stays as it is, and the new timing decides what follows it (_next_slot); only a slot that lies
-- ahead is chosen anew. If it lies further ahead than the next one, the clock was put back, and the
-- slots that had their run are stepped over. The anchor of the grid stays unless starts_at is
-- given. One whose next slot could not be computed goes on, by the new timing, with the first slot
-- after the last it had. A retry that waits keeps its attempt, whatever max_retries says. A run
-- that was asked to end, because its schedule was deleted, is no longer asked. One that runs is
-- counted from now on, limit or not: of its queue's limits an old snapshot knows nothing. To make a
-- schedule, or to say again what it is, is a producer's daily work; a change of one is recorded as
-- an action.
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
    timeout interval default null,
    ends_at timestamptz default null,
    max_runs bigint default null,
    fixed_delay boolean default false,
    jitter interval default '0',
    misfire_cap integer default 100,
    max_lateness interval default null,
    overlap text default 'coalesce',
    headers jsonb default null,
    key text default null
)
    returns rota.enqueued_job
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._enqueue_time();
    v_type rota.schedule_type := case when cron is null then 'INTERVAL' else 'CRON' end;
    v_schedule rota.schedules;
    v_held rota.live_jobs;
    v_old rota.schedules;
    v_from timestamptz;
    v_slot timestamptz;
    v_run_at timestamptz;
    v_job rota.enqueued_job;
begin
    perform rota._check_schedule(
        task, payload, every, cron, time_zone, name, queue, priority, max_retries, timeout,
        headers, key
    );
    perform rota._check_schedule_options(
        every, starts_at, ends_at, max_runs, fixed_delay, jitter, misfire, misfire_cap,
        max_lateness, overlap
    );
    headers := nullif(headers, '{}');
    perform rota._check_wall(queue);

    if name is not null then
        perform rota._check_name(name);
    end if;

    v_schedule.every := every;
    v_schedule.cron := cron;
    v_schedule.time_zone := time_zone;
    v_schedule.starts_at := coalesce(starts_at, v_now);
    v_schedule.ends_at := ends_at;
    v_schedule.max_runs := max_runs;
    v_schedule.fixed_delay := fixed_delay;
    v_schedule.jitter := jitter;
    v_schedule.misfire := misfire;
    v_schedule.misfire_cap := misfire_cap;
    v_schedule.max_lateness := max_lateness;
    v_schedule.overlap := overlap;

    perform rota._use_lane(queue, priority, key is not null);

    loop
        select j.* into v_held
        from rota.live_jobs as j
        where j.name = schedule_job.name
        for no key update;

        if found and not rota._sees_queue(v_held.queue) then
            perform rota._refuse_name(name);
        end if;

        exit when found;

        perform rota._check_span(v_schedule.starts_at, ends_at);
        v_slot := rota._first_slot(v_schedule, v_now);

        insert into rota.live_jobs as j (
            task, payload, queue, priority, schedule_type, run_at, scheduled_for,
            max_retries, timeout, name, created_at, headers, key
        )
        select
            schedule_job.task,
            schedule_job.payload,
            schedule_job.queue,
            schedule_job.priority,
            v_type,
            rota._later(v_slot, random() * schedule_job.jitter),
            v_slot,
            coalesce(schedule_job.max_retries, q.max_retries, 3),
            coalesce(schedule_job.timeout, q.timeout),
            schedule_job.name,
            v_now,
            schedule_job.headers,
            schedule_job.key
        from (select) as one
        left join rota.queues as q on q.name = schedule_job.queue
        on conflict ((j.name)) where j.name is not null do nothing
        returning j.id, true into v_job;

        if found then
            v_schedule.job_id := v_job.job_id;

            insert into rota.schedules
            values (v_schedule.*);

            perform rota._wake(queue, v_slot, v_now);

            return v_job;
        end if;
    end loop;

    v_now := rota._enqueue_time();  -- slots may have gone by while this call waited for the lock

    select s.* into v_old
    from rota.schedules as s
    where s.job_id = v_held.id;

    v_schedule.job_id := v_held.id;
    v_schedule.starts_at := coalesce(starts_at, v_old.starts_at);
    v_schedule.paused_at := v_old.paused_at;
    v_schedule.trigger_requested_at := v_old.trigger_requested_at;
    perform rota._check_span(v_schedule.starts_at, ends_at);

    delete from rota.schedules as s
    where s.job_id = v_held.id;

    insert into rota.schedules
    values (v_schedule.*);

    if v_held.counted
        and (v_held.queue, v_held.key) is distinct from (schedule_job.queue, schedule_job.key)
    then
        perform rota._offer_room(array[v_held.queue], array[v_held.key::text], v_now);
    end if;

    update rota.live_jobs as j
    set task = schedule_job.task,
        payload = schedule_job.payload,
        queue = schedule_job.queue,
        priority = schedule_job.priority,
        schedule_type = v_type,
        max_retries = greatest(
            coalesce(schedule_job.max_retries, j.max_retries),
            j.attempt - case j.state when 'RUNNING' then 1 else 0 end
        ),
        timeout = coalesce(schedule_job.timeout, j.timeout),
        headers = schedule_job.headers,
        key = schedule_job.key,
        counted = case
            when j.state = 'RUNNING' then true
            when (j.queue, j.key) is not distinct from (schedule_job.queue, schedule_job.key)
                then j.counted
        end,
        cancel_requested_at = null,
        cancel_reason = null
    where j.id = v_held.id
    returning j.run_at into v_run_at;

    if v_held.unsettled_since is not null then
        v_from := v_held.scheduled_for + interval '1 microsecond';
    elsif v_held.state = 'SCHEDULED' and v_held.attempt = 0 and v_held.scheduled_for > v_now
        and (
            v_old.every, v_old.cron, v_old.time_zone, v_old.starts_at, v_old.ends_at,
            v_old.fixed_delay, v_old.jitter
        ) is distinct from (
            v_schedule.every, v_schedule.cron, v_schedule.time_zone, v_schedule.starts_at,
            v_schedule.ends_at, v_schedule.fixed_delay, v_schedule.jitter
        )
    then
        v_from := v_now;

        if not v_old.fixed_delay
            and (rota._find_slot_after(v_old, v_now)).slot < v_held.scheduled_for
        then
            v_from := greatest(v_from, (
                select max(e.scheduled_for) + interval '1 microsecond'
                from rota.attempts as e
                where e.job_id = v_held.id and e.outcome <> 'SKIPPED'
            ));
        end if;
    end if;

    if v_from is not null then
        v_slot := rota._first_slot(v_schedule, v_from);

        update rota.live_jobs as j
        set unsettled_since = null,
            scheduled_for = v_slot,
            run_at = case when v_schedule.paused_at is null
                then rota._later(v_slot, random() * v_schedule.jitter)
                else 'infinity'
            end
        where j.id = v_held.id
        returning j.run_at into v_run_at;
    end if;

    if v_held.state = 'SCHEDULED' then
        perform rota._wake(queue, v_run_at, v_now);
    end if;

    if v_old is distinct from v_schedule
        or (v_held.task, v_held.payload, v_held.queue, v_held.priority, v_held.headers, v_held.key)
            is distinct from (task, payload, queue, priority, headers, key)
        or v_held.max_retries <> max_retries
        or coalesce(v_held.timeout, '0') <> timeout
        or v_held.cancel_requested_at is not null
    then
        perform rota._record_action('schedule_job', v_held.id, queue, name);
    end if;

    return row(v_held.id, false)::rota.enqueued_job;
end;
$$;

comment on function rota.schedule_job is
    'Add a job that runs again and again, or update the one of this name.';
