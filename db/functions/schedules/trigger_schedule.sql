-- An extra run, of the present moment, that never overlaps another of the same schedule: it starts
-- at once, or when the run under way has ended. The slot that was next stays next, also if the
-- clock was put back and slots that had their run lie ahead again. What waits for its jitter or
-- its backoff only is run now instead. Also while paused: then it is the only one.
-- Where the next slot cannot be computed the caller is told why, and the schedule stays as it is.
create or replace function rota.trigger_schedule(name text)
    returns rota.job_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_job rota.live_jobs := rota._lock_schedule(name);
    v_now timestamptz := rota._now();  -- not before the lock, for which slots may have gone by
    v_schedule rota.schedules;
    v_slot timestamptz := v_job.scheduled_for;
begin
    perform rota._record_action('trigger_schedule', v_job.id, v_job.queue, name);

    if v_job.state = 'RUNNING' then
        update rota.schedules as s
        set trigger_requested_at = v_now
        where s.job_id = v_job.id;

        return row(v_job.id, v_job.state, null)::rota.job_outcome;
    end if;

    if v_job.run_at > v_now or v_job.unsettled_since is not null then
        select s.* into v_schedule
        from rota.schedules as s
        where s.job_id = v_job.id;

        if v_job.unsettled_since is not null then
            v_slot := rota._slot_after(v_schedule, v_job.scheduled_for);
            v_job.scheduled_for := v_slot;

            if v_slot is null then
                raise exception 'schedule "%" is over', v_job.name
                    using errcode = 'RTC01';
            end if;
        end if;

        if v_job.attempt = 0 and v_slot <= v_now and v_schedule.paused_at is not null then
            perform rota._record_paused(v_job, v_schedule, v_now, v_now);
            v_slot := v_now;
        elsif v_job.attempt = 0 and v_slot > v_now then
            v_slot := case
                when not v_schedule.fixed_delay and rota._slot_after(v_schedule, v_now) < v_slot
                    then v_slot - interval '1 microsecond'
                else v_now
            end;
        end if;

        update rota.live_jobs as j
        set run_at = v_now,
            scheduled_for = v_slot,
            unsettled_since = null
        where j.id = v_job.id;

        perform rota._wake(v_job.queue, v_now, v_now);
    end if;

    return row(v_job.id, v_job.state, least(v_job.run_at, v_now))::rota.job_outcome;
end;
$$;

comment on function rota.trigger_schedule is
    'Run a schedule once now, beside its slots.';
