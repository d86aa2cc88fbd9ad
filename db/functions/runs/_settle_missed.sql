drop function if exists rota._settle_missed(tid[], timestamptz);

-- Called by a claim on rows that it has locked, if a schedule is among them. Decides which slot
-- each schedule runs now (_missed_slots); whatever is given up leaves one SKIPPED row. A row whose
-- schedule has nothing to run now is moved to its next slot, or ended, and is not claimed. Places
-- change, because rows do.
-- A run that is given up after it had begun no longer holds its place in strict order (counted).
-- A fixed delay has no slots that could be missed, and what is due of a paused schedule was
-- triggered: both are run, however late.
--
-- After an outage all schedules are due at once. Some are settled, one at least: for a tenth of a
-- second, or for a second while nothing is found that can run now. The others stay as they are, for
-- the next claim; jobs that are no schedules are claimed all the same.
--
-- Where slots cannot be computed, that is noted, and what is due runs; if nothing is, or what is is
-- too late, the row waits for another try.
-- Lock order: the job's row, which the claim holds, then its schedule's.
create or replace function rota._settle_missed(places tid[], at timestamptz, since timestamptz)
    returns tid[]
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_settled tid[] := '{}';
    v_seen integer := 0;
    v_place tid;
    v_job rota.live_jobs;
    v_schedule rota.schedules;
    v_slot timestamptz;
    v_skipped bigint;
    v_error text;
begin
    foreach v_place in array places loop
        select j.* into v_job
        from rota.live_jobs as j
        where j.ctid = v_place;

        if v_job.schedule_type = 'ONE_TIME' then
            v_settled := v_settled || v_place;
            continue;
        end if;

        continue when v_seen > 0 and clock_timestamp() > since + case
            when v_settled = '{}' then interval '1 second' else interval '100 ms'
        end;
        v_seen := v_seen + 1;

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

        select m.slot, m.skipped, m.error into v_slot, v_skipped, v_error
        from rota._missed_slots(v_job, v_schedule, at) as m;

        if v_error is null and v_slot = v_job.scheduled_for and v_job.unsettled_since is null then
            v_settled := v_settled || v_place;
            continue;
        end if;

        if v_error is not null and v_slot is null and v_job.unsettled_since is null then
            v_skipped := 1;
        end if;

        if v_skipped > 0 then
            perform rota._record_skipped(
                v_job,
                v_skipped,
                format(
                    '%s missed; misfire policy %s%s%s',
                    case v_skipped
                        when 1 then '1 slot was'
                        else format('%s slots were', v_skipped)
                    end,
                    v_schedule.misfire,
                    case v_schedule.misfire when 'all' then ', cap ' || v_schedule.misfire_cap end,
                    ', max_lateness ' || rota._span_text(v_schedule.max_lateness)
                ),
                coalesce(v_slot, case when v_error is not null then 'infinity' end::timestamptz),
                at
            );
        end if;

        if v_error is null and v_slot is null then
            perform rota._retire_job(v_job, 'COMPLETED', null, at);
            continue;
        end if;

        if v_job.counted and v_slot is distinct from v_job.scheduled_for then
            perform rota._offer_room(array[v_job.queue], array[v_job.key], at);
        end if;

        update rota.live_jobs as j
        set scheduled_for = coalesce(v_slot, j.scheduled_for),
            run_at = case
                when v_slot is null then rota._next_try(coalesce(j.unsettled_since, at), at)
                when v_slot = j.scheduled_for then j.run_at
                when v_slot > at then rota._later(v_slot, random() * v_schedule.jitter)
                else v_slot
            end,
            run = j.run + case when v_slot = j.scheduled_for or j.attempt = 0 then 0 else 1 end,
            attempt = case when v_slot = j.scheduled_for then j.attempt else 0 end,
            counted = case when v_slot = j.scheduled_for then j.counted end,
            last_error = coalesce(v_error, j.last_error),
            unsettled_since = case when v_slot is null then coalesce(j.unsettled_since, at) end
        where j.ctid = v_place
        returning j.ctid into v_place;

        if v_slot <= at or v_slot = v_job.scheduled_for then
            v_settled := v_settled || v_place;
        end if;
    end loop;

    return v_settled;
end;
$$;

comment on function rota._settle_missed is
    'Apply the misfire policies of locked schedules, and say which rows are to be claimed.';
