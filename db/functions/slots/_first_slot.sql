create or replace function rota._first_slot(schedule rota.schedules, at timestamptz)
    returns timestamptz
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_from timestamptz := greatest(schedule.starts_at, at);
    v_slot timestamptz := case
        when schedule.fixed_delay then v_from
        else rota._slot_after(schedule, v_from - interval '1 microsecond')
    end;
begin
    if v_slot is null or v_slot >= schedule.ends_at then
        raise exception 'ends_at %: the schedule would never run',
            rota._utc_text(schedule.ends_at)
            using errcode = 'RTV01';
    end if;

    return v_slot;
end;
$$;

comment on function rota._first_slot is
    'Say when a schedule that is saved now runs first, or refuse one that never would.';
