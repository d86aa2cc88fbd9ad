drop function if exists rota._next_slot(rota.live_jobs, timestamptz);
drop type if exists rota.next_slot;

-- Reads only; the caller holds the job's row. Strictly later than the slot it follows, so a clock
-- that was put back makes no slot twice. Total: where the slot cannot be computed it says why, and
-- when to try again.
-- Slots that came while the run was under way are coalesced into it, unless the schedule catches
-- up. Slots that had been missed before the run began, of which misfire 'all' runs one after the
-- other, are not the run's fault: it goes on with them, and the first of them is the run that a
-- trigger asked for. Such a slot is due from now on, not from when it was missed: it takes its
-- place behind the jobs that wait already, else a schedule with much to catch up would keep its
-- lane to itself.
-- While the schedule is paused run_at is 'infinity' even if it is over: a retry waits, too.
create or replace function rota._next_slot(job rota.live_jobs, at timestamptz)
    returns rota.following_slot
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule rota.schedules;
    v_slot timestamptz;
    v_error text;
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
        select f.slot, f.error into v_slot, v_error
        from rota._find_slot_after(v_schedule, job.scheduled_for) as f;

        if v_slot <= at and v_schedule.overlap = 'coalesce'
            and not (v_schedule.misfire = 'all' and v_slot <= job.started_at)
        then
            select f.slot, f.error into v_slot, v_error
            from rota._find_slot_after(v_schedule, at) as f;
        end if;
    end if;

    if v_schedule.trigger_requested_at is not null and not v_is_over
        and (v_slot is null or v_slot > at or v_schedule.paused_at is not null)
    then
        return row(
            greatest(at, job.scheduled_for + interval '1 microsecond'), at, null
        )::rota.following_slot;
    end if;

    return row(
        v_slot,
        case
            when v_schedule.paused_at is not null then 'infinity'
            when v_error is not null then rota._next_try(at, at)
            else greatest(rota._later(v_slot, random() * v_schedule.jitter), at)
        end,
        v_error
    )::rota.following_slot;
end;
$$;

comment on function rota._next_slot is
    'Say which slot follows the run that a schedule has ended; a null one when it is over.';
