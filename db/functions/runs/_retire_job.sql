-- For a SCHEDULED job whose row the caller has locked; a running one ends in _end_attempts.
create or replace function rota._retire_job(
    job rota.live_jobs,
    state text,
    reason text,
    at timestamptz
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    if job.counted then
        perform rota._offer_room(array[job.queue], array[job.key::text], at);
    end if;

    delete from rota.live_jobs as j
    where j.id = job.id;

    insert into rota.finished_jobs (
        id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run,
        attempt, max_retries, timeout, unique_key, name, progress, cancel_requested_at,
        cancel_reason, last_error, created_at, finished_at, headers, key
    )
    values (
        job.id, job.task, job.payload, job.queue, job.priority, state, job.schedule_type,
        job.run_at, job.scheduled_for, job.run, job.attempt, job.max_retries, job.timeout,
        job.unique_key, job.name, job.progress, case state when 'CANCELLED' then at end, reason,
        job.last_error, job.created_at, at, job.headers, job.key
    );
end;
$$;

comment on function rota._retire_job is
    'Move a job that waits to the finished ones.';
