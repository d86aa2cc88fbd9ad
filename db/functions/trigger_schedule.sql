-- An extra run, of the present moment, that never overlaps another of the same schedule: it starts
-- at once, or when the run under way has ended. The slot that was next stays next. Also while
-- paused: then it is the only one.
create or replace function rota.trigger_schedule(name text)
    returns rota.job_outcome
    language plpgsql
    volatile
    security definer
    set search_path = ''
as $$
declare
    v_now timestamptz := rota._now();
    v_job rota.live_jobs := rota._lock_schedule(name);
begin
    if v_job.state = 'RUNNING' then
        update rota.schedules as s
        set trigger_requested_at = v_now
        where s.job_id = v_job.id;

        return row(v_job.id, v_job.state, null)::rota.job_outcome;
    end if;

    if v_job.run_at > v_now then
        update rota.live_jobs as j
        set run_at = v_now,
            scheduled_for = case when j.attempt = 0 then v_now else j.scheduled_for end
        where j.id = v_job.id;

        perform rota._wake(v_job.queue);
    end if;

    return row(v_job.id, v_job.state, least(v_job.run_at, v_now))::rota.job_outcome;
end;
$$;

comment on function rota.trigger_schedule is
    'Run a schedule once now, beside its slots.';
