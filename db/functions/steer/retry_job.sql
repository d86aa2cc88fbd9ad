-- Locks the finished row and deletes it, then makes the live one: a second call waits for the
-- first and then finds the job live. A unique key or a name that another live job took meanwhile
-- refuses the insert, and with it everything. The retry is a new run, with all its attempts; the
-- executions of the runs before it stay as they are.
create or replace function rota.retry_job(job_id bigint)
    returns rota.job_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._enqueue_time();
    v_run_at timestamptz := v_now;
    v_finished rota.finished_jobs;
    v_schedule rota.schedules;
    v_state text;
    v_constraint text;
begin
    perform rota._check_job(job_id);

    delete from rota.finished_jobs as f
    where f.id = retry_job.job_id and f.state in ('FAILED', 'CANCELLED')
    returning f.* into v_finished;

    if not found then
        select j.state into v_state
        from rota.jobs as j
        where j.id = retry_job.job_id;

        if v_state is null then
            perform rota._refuse_no_job(job_id);
        end if;

        raise exception 'job % is %; only a FAILED or CANCELLED job can be retried', job_id, v_state
            using errcode = 'RTC01';
    end if;

    if v_finished.schedule_type <> 'ONE_TIME' then
        select s.* into v_schedule
        from rota.schedules as s
        where s.job_id = v_finished.id;

        v_run_at := case
            when v_finished.run >= v_schedule.max_runs then null
            when v_schedule.fixed_delay then v_now
            when v_finished.attempt = 0 and v_finished.scheduled_for > v_now
                then v_finished.scheduled_for
            else rota._slot_after(v_schedule, greatest(v_finished.scheduled_for, v_now))
        end;
    end if;

    if v_run_at is null then
        raise exception 'the schedule of job % is over', job_id
            using errcode = 'RTC01';
    end if;

    update rota.schedules as s
    set paused_at = null,
        trigger_requested_at = null
    where s.job_id = v_finished.id;

    perform rota._use_lane(v_finished.queue, v_finished.priority);

    insert into rota.live_jobs (
        id, task, payload, queue, priority, schedule_type, run_at, scheduled_for, run,
        max_retries, timeout, unique_key, name, last_error, created_at
    )
    values (
        v_finished.id, v_finished.task, v_finished.payload, v_finished.queue, v_finished.priority,
        v_finished.schedule_type, v_run_at, v_run_at, v_finished.run + 1, v_finished.max_retries,
        v_finished.timeout, v_finished.unique_key, v_finished.name, v_finished.last_error,
        v_finished.created_at
    );

    perform rota._wake(v_finished.queue, v_run_at, v_now);

    return row(v_finished.id, 'SCHEDULED', v_run_at)::rota.job_outcome;
exception
    when unique_violation then
        get stacked diagnostics v_constraint = constraint_name;
        raise exception 'job % cannot be retried: another live job holds its %', job_id,
            case v_constraint when 'live_jobs_name' then 'name' else 'unique_key' end
            using errcode = 'RTC03';
end;
$$;

comment on function rota.retry_job is
    'Bring a FAILED or CANCELLED job back under its own id, with all its attempts.';
