-- For a job whose row the caller has locked, in a function that plans by index (db/settings.sql).
-- A RUNNING one is only asked to end: its worker learns it by heartbeat, and whatever the attempt
-- then ends with, or when its lease runs out, the job is CANCELLED (_end_attempts).
create or replace function rota._cancel_live_job(
    job rota.live_jobs,
    reason text,
    at timestamptz
)
    returns text
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    if job.state = 'SCHEDULED' then
        perform rota._retire_job(job, 'CANCELLED', reason, at);

        return 'CANCELLED';
    end if;

    update rota.live_jobs as j
    set cancel_requested_at = coalesce(j.cancel_requested_at, at),
        cancel_reason = coalesce(j.cancel_reason, reason)
    where j.id = job.id;

    return job.state;
end;
$$;

comment on function rota._cancel_live_job is
    'End a job if it is scheduled, ask it to end if it is running; tell its state then.';
