-- Slots that passed during the pause are not run: whoever paused wanted that. They leave a SKIPPED
-- row. A retry that waited through the pause runs now, unless a later slot has overtaken it.
-- Where the next slot cannot be computed the caller is told why, and the schedule stays paused.
create or replace function rota.resume_schedule(name text)
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
    v_run_at timestamptz;
begin
    perform rota._record_action('resume_schedule', v_job.id, v_job.queue, name);

    update rota.schedules as s
    set paused_at = null
    where s.job_id = v_job.id and s.paused_at is not null
    returning s.* into v_schedule;

    -- While paused, a time to run is that of a trigger.
    if not found or v_job.state = 'RUNNING' or v_job.run_at < 'infinity' then
        return row(v_job.id, v_job.state, nullif(v_job.run_at, 'infinity'))::rota.job_outcome;
    end if;

    if v_job.unsettled_since is not null then
        v_slot := rota._slot_after(v_schedule, v_slot);
        v_job.scheduled_for := coalesce(v_slot, v_job.scheduled_for);
    end if;

    if v_job.attempt > 0 and (
        v_schedule.fixed_delay
        or v_job.run >= v_schedule.max_runs
        or coalesce(rota._slot_after(v_schedule, v_job.scheduled_for) > v_now, true)
    ) then
        v_run_at := v_now;
    else
        if v_slot <= v_now then
            v_slot := case
                when not v_schedule.fixed_delay then rota._slot_after(v_schedule, v_now)
                when v_schedule.ends_at is null or v_now < v_schedule.ends_at then v_now
            end;
            perform rota._record_paused(v_job, v_schedule, v_slot, v_now);
        end if;

        v_run_at := rota._later(v_slot, random() * v_schedule.jitter);
    end if;

    if v_slot is null then
        perform rota._retire_job(v_job, 'COMPLETED', null, v_now);
        return row(v_job.id, 'COMPLETED', null)::rota.job_outcome;
    end if;

    if v_job.counted and v_slot <> v_job.scheduled_for then
        perform rota._offer_room(array[v_job.queue], array[v_job.key], v_now);
    end if;

    update rota.live_jobs as j
    set scheduled_for = v_slot,
        run_at = v_run_at,
        run = j.run + case when v_slot <> v_job.scheduled_for and j.attempt > 0 then 1 else 0 end,
        attempt = case when v_slot <> v_job.scheduled_for then 0 else j.attempt end,
        counted = case when v_slot = v_job.scheduled_for then j.counted end,
        unsettled_since = null
    where j.id = v_job.id;

    perform rota._wake(v_job.queue, v_run_at, v_now);

    return row(v_job.id, 'SCHEDULED', v_run_at)::rota.job_outcome;
end;
$$;

comment on function rota.resume_schedule is
    'Let a paused schedule run again, from its next slot on.';
