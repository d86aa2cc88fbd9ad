-- Of the slots that are due, the last one (misfire skip and once) or the last misfire_cap of them,
-- one after the other (all); none that is later than max_lateness, which skip sets to a minute if
-- nobody else does. A retry that a later slot has overtaken is given up; the last of max_runs is
-- overtaken by none. A slot is late from when it could first run: its jitter, its backoff and the
-- delay of a release are not lateness, but the time in which the missed slots before it ran is.
--
-- It computes and reads only, and no slot is walked. Total, as _find_slot_after is: what is due and
-- not too late is run all the same where the slots behind it cannot be computed.
create or replace function rota._missed_slots(
    job rota.live_jobs,
    schedule rota.schedules,
    at timestamptz,
    out slot timestamptz,  -- to run now or to wait for; null if there is none
    out skipped bigint,    -- slots that are given up
    out error text
)
    returns record
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_is_last constant boolean := job.attempt > 0 and coalesce(job.run >= schedule.max_runs, false);
    v_most constant integer := case schedule.misfire
        when 'all' then schedule.misfire_cap
        else 1
    end;
    v_oldest constant timestamptz := rota._later(at, -case schedule.misfire
        when 'skip' then coalesce(schedule.max_lateness, interval '1 minute')
        else schedule.max_lateness
    end);
    v_latest_start constant timestamptz := rota._later(job.scheduled_for, schedule.jitter);
    v_is_late boolean := false;
    v_later bigint := 0;  -- slots that are due, too
    v_kept bigint;
    v_after timestamptz;
begin
    slot := job.scheduled_for;
    skipped := 0;

    if job.unsettled_since is not null then
        slot := rota._slot_after(schedule, job.scheduled_for);

        if slot is null or slot > at then
            return;
        end if;

        v_is_late := coalesce(slot < v_oldest, false);
    elsif job.attempt = 0 and job.run_at > v_latest_start and v_latest_start < v_oldest then
        v_is_late := job.run_at < v_oldest or 'RELEASED' is distinct from (
            select e.outcome
            from rota.attempts as e
            where e.job_id = job.id
            order by e.finished_at desc
            limit 1
        );
    else
        v_is_late := coalesce(job.run_at < v_oldest, false);
    end if;

    if not v_is_last then
        v_later := rota._slots_between(schedule, slot, at);
    end if;

    if v_later < v_most and not v_is_late then
        return;
    end if;

    v_after := greatest(slot, v_oldest - interval '1 microsecond');
    v_kept := case
        when v_later = 0 or v_after = slot then v_later
        else rota._slots_between(schedule, v_after, at)
    end;
    skipped := v_later + 1 - least(v_kept, v_most);
    slot := case
        when v_kept > v_most then rota._slot_from_end(schedule, v_after, at, v_kept, v_most)
        when v_kept > 0 then rota._slot_after(schedule, v_after)
        when not v_is_last then rota._slot_after(schedule, greatest(slot, at))
    end;
exception
    when others then
        if rota._is_passing(sqlstate) then
            raise;
        end if;

        skipped := 0;
        slot := case when job.unsettled_since is null and not v_is_late then job.scheduled_for end;
        error := rota._slot_error(sqlerrm);
end;
$$;

comment on function rota._missed_slots is
    'Apply the misfire policy of a schedule whose row is due.';
