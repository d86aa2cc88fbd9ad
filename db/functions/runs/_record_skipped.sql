-- Opens finished_jobs before attempts, in the order of all: the caller may end the job next.
create or replace function rota._record_skipped(
    job rota.live_jobs,
    slots bigint,
    reason text,
    next_run_at timestamptz,
    at timestamptz
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    lock table only rota.finished_jobs in row exclusive mode;

    insert into rota.attempts (
        job_id, run, attempt, outcome, scheduled_for, finished_at, error, result, job_state,
        next_run_at
    )
    values (
        job.id,
        job.run,
        0,
        'SKIPPED',
        job.scheduled_for,
        at,
        reason,
        jsonb_build_object('slots', slots),
        case when next_run_at is null then 'COMPLETED' else 'SCHEDULED' end,
        nullif(next_run_at, 'infinity')
    );
end;
$$;

comment on function rota._record_skipped is
    'Leave a SKIPPED row that says how many slots of a schedule were given up, and why.';
