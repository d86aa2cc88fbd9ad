-- Called by a claim on rows that it has locked, if a schedule is among them. Decides which slot
-- each schedule runs now: of the slots that are due, the last one (misfire skip and once) or the
-- last misfire_cap of them, one after the other (all); none that is later than max_lateness, which
-- skip sets to a minute if nobody else does. Whatever is given up leaves one SKIPPED row, also a
-- retry that a later slot has overtaken. A row whose schedule has nothing to run now is moved to
-- its next slot, or ended, and is not claimed. Places change, because rows do.
-- A fixed delay has no slots that could be missed, and what is due of a paused schedule was
-- triggered: both are run, however late. The last of max_runs is overtaken by no slot.
-- Lock order: the job's row, which the claim holds, then its schedule's.
create or replace function rota._settle_missed(places tid[], at timestamptz)
    returns tid[]
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_settled tid[] := '{}';
    v_place tid;
    v_job rota.live_jobs;
    v_schedule rota.schedules;
    v_is_last boolean;
    v_later rota.slot_list;
    v_slots timestamptz[];
    v_oldest timestamptz;
    v_next timestamptz;
    v_skipped bigint;
begin
    foreach v_place in array places loop
        select j.* into v_job
        from rota.live_jobs as j
        where j.ctid = v_place;

        if v_job.schedule_type = 'ONE_TIME' then
            v_settled := v_settled || v_place;
            continue;
        end if;

        update rota.schedules as s
        set trigger_requested_at = null
        where s.job_id = v_job.id and s.trigger_requested_at is not null;

        select s.* into v_schedule
        from rota.schedules as s
        where s.job_id = v_job.id;

        if v_schedule.fixed_delay or v_schedule.paused_at is not null then
            v_settled := v_settled || v_place;
            continue;
        end if;

        v_is_last := v_job.attempt > 0 and coalesce(v_job.run >= v_schedule.max_runs, false);
        v_oldest := rota._later(at, -case v_schedule.misfire
            when 'skip' then coalesce(v_schedule.max_lateness, interval '1 minute')
            else v_schedule.max_lateness
        end);

        if v_is_last then
            v_later := row(0, '{}')::rota.slot_list;
        else
            v_later := rota._slots_between(
                v_schedule,
                v_job.scheduled_for,
                at,
                case v_schedule.misfire when 'all' then v_schedule.misfire_cap else 1 end
            );
        end if;

        -- The slot that the row stands for is one of those that are due. It counts as late from
        -- when it could first run: its jitter and its backoff are not lateness.
        v_slots := v_later.last_ones;

        if cardinality(v_slots) = 0
            or (v_schedule.misfire = 'all' and v_later.number < v_schedule.misfire_cap)
        then
            v_slots := v_job.scheduled_for || v_slots;
        end if;

        if v_slots[1] = v_job.scheduled_for and (v_oldest is null or v_job.run_at >= v_oldest) then
            v_settled := v_settled || v_place;
            continue;
        end if;

        v_slots := array(
            select u.slot
            from unnest(v_slots) as u(slot)
            where (v_oldest is null or u.slot >= v_oldest) and u.slot <> v_job.scheduled_for
            order by u.slot
        );
        v_skipped := v_later.number + 1 - cardinality(v_slots);
        v_next := case when not v_is_last then coalesce(
            v_slots[1], rota._slot_after(v_schedule, greatest(v_job.scheduled_for, at))
        ) end;

        perform rota._record_skipped(
            v_job,
            v_skipped,
            format(
                '%s missed; misfire policy %s%s%s',
                case v_skipped when 1 then '1 slot was' else format('%s slots were', v_skipped) end,
                v_schedule.misfire,
                case v_schedule.misfire when 'all' then ', cap ' || v_schedule.misfire_cap end,
                ', max_lateness ' || rota._span_text(v_schedule.max_lateness)
            ),
            v_next,
            at
        );

        if v_next is null then
            perform rota._retire_job(v_job, 'COMPLETED', null, at);
            continue;
        end if;

        update rota.live_jobs as j
        set scheduled_for = v_next,
            run_at = rota._later(
                v_next, case when v_next > at then random() else 0 end * v_schedule.jitter
            ),
            run = j.run + case when j.attempt > 0 then 1 else 0 end,
            attempt = 0
        where j.ctid = v_place
        returning j.ctid into v_place;

        if v_next <= at then
            v_settled := v_settled || v_place;
        end if;
    end loop;

    return v_settled;
end;
$$;

comment on function rota._settle_missed is
    'Apply the misfire policies of locked schedules, and say which rows are to be claimed.';
