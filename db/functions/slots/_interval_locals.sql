drop function if exists rota._interval_locals(timestamptz, interval, text, timestamptz, integer);

-- Counts the grid up from a slot's number, as _interval_slot does. Only an interval of months or
-- days names local times; any other is elapsed time, which the clocks cannot move.
create or replace function rota._interval_locals(
    starts_at timestamptz,
    every interval,
    time_zone text,
    slot timestamptz,
    inout number bigint,
    out locals timestamp[]
)
    returns record
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_start constant timestamp := starts_at at time zone _interval_locals.time_zone;
    v_calendar constant interval := make_interval(
        months => (extract(year from every) * 12 + extract(month from every))::integer,
        days => extract(day from every)::integer
    );
    v_local timestamp;
begin
    locals := '{}';

    if v_calendar = interval '0' then
        return;
    end if;

    loop
        v_local := v_start + number * v_calendar;
        exit when rota._local_instant(v_local, _interval_locals.time_zone) at time zone 'UTC'
            + number * (every - v_calendar) > slot;
        locals := locals || v_local;
        number := number + 1;
    end loop;
end;
$$;

comment on function rota._interval_locals is
    'List the local times of an interval''s grid, from one number on, that fall on a slot.';
