drop function if exists rota._slots_between(rota.schedules, timestamptz, timestamptz, integer);
drop type if exists rota.slot_list;

-- Exact, and cheap however many there are: they are counted, not walked. Like _slot_after it raises
-- what the server does not understand.
create or replace function rota._slots_between(
    schedule rota.schedules,
    after timestamptz,
    upto timestamptz
)
    returns bigint
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_after timestamptz := greatest(after, schedule.starts_at - interval '1 microsecond');
    v_upto timestamptz := least(upto, schedule.ends_at - interval '1 microsecond');
begin
    if v_after >= v_upto then
        return 0;
    end if;

    if schedule.cron is null then
        return rota._interval_slots_between(
            schedule.starts_at, schedule.every, schedule.time_zone, v_after, v_upto
        );
    end if;

    return rota._cron_slots_between(schedule.cron, schedule.time_zone, v_after, v_upto);
end;
$$;

comment on function rota._slots_between is
    'Count the slots of a schedule after one moment and up to another.';
