-- Raises what the server does not understand, or no longer does (new time zone data): who decides
-- for many schedules asks _find_slot_after.
create or replace function rota._slot_after(schedule rota.schedules, after timestamptz)
    returns timestamptz
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_after timestamptz := greatest(after, schedule.starts_at - interval '1 microsecond');
    v_slot timestamptz;
begin
    if schedule.cron is null then
        v_slot := rota._interval_slot(
            schedule.starts_at, schedule.every, schedule.time_zone, v_after
        );
    else
        v_slot := rota.next_run(schedule.cron, schedule.time_zone, v_after);
    end if;

    return case when schedule.ends_at is null or v_slot < schedule.ends_at then v_slot end;
end;
$$;

comment on function rota._slot_after is
    'Say which slot of a schedule comes first after a time; null when it is over.';
