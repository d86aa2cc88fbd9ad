-- Reads only; the caller holds the job's row. Strictly later than the slot it follows, so a clock
-- that was put back makes no slot twice.
-- Slots that came while the run was under way are coalesced into it, unless the schedule catches
-- up. Slots that had been missed before the run began, of which misfire 'all' runs one after the
-- other, are not the run's fault: it goes on with them, and the first of them is the run that a
-- trigger asked for.
-- While the schedule is paused run_at is 'infinity' even if it is over: a retry waits, too.
create or replace function rota._next_slot(job rota.live_jobs, at timestamptz)
    returns rota.next_slot
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule rota.schedules;
    v_slot timestamptz;
    v_is_over boolean := false;
begin
    select s.* into v_schedule
    from rota.schedules as s
    where s.job_id = job.id;

    if job.run >= v_schedule.max_runs then
        v_is_over := true;
    elsif v_schedule.fixed_delay then
        v_slot := rota._later(greatest(at, job.scheduled_for), v_schedule.every);
        v_slot := case
            when v_schedule.ends_at is null or v_slot < v_schedule.ends_at then v_slot
        end;
    else
        v_slot := rota._slot_after(v_schedule, job.scheduled_for);

        if v_slot <= at and v_schedule.overlap = 'coalesce'
            and not (v_schedule.misfire = 'all' and v_slot <= job.started_at)
        then
            v_slot := rota._slot_after(v_schedule, at);
        end if;
    end if;

    if v_schedule.trigger_requested_at is not null and not v_is_over
        and (v_slot is null or v_slot > at or v_schedule.paused_at is not null)
    then
        return row(
            greatest(at, job.scheduled_for + interval '1 microsecond'), at
        )::rota.next_slot;
    end if;

    return row(
        v_slot,
        case when v_schedule.paused_at is null
            then rota._later(v_slot, random() * v_schedule.jitter)
            else 'infinity'
        end
    )::rota.next_slot;
end;
$$;

comment on function rota._next_slot is
    'Say which slot follows the run that a schedule has ended; a null one when it is over.';
