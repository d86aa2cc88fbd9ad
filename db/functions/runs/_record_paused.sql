create or replace function rota._record_paused(
    job rota.live_jobs,
    schedule rota.schedules,
    next_run_at timestamptz,
    at timestamptz
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    if schedule.fixed_delay then
        return;
    end if;

    perform rota._record_skipped(
        job,
        1 + rota._slots_between(schedule, job.scheduled_for, at),
        'the schedule was paused',
        next_run_at,
        at
    );
end;
$$;

comment on function rota._record_paused is
    'Leave a SKIPPED row for the slots of a schedule that passed while it was paused.';
