-- Looks for a moment after which exactly so many slots come, by counting: where it should be if the
-- slots lay evenly, and every other time in the middle of what is left, so that it ends after twice
-- the bits of the span in microseconds, which are less than 60. Nearly always the first or the
-- second guess is right.
create or replace function rota._slot_from_end(
    schedule rota.schedules,
    after timestamptz,
    upto timestamptz,
    number bigint,  -- of the slots in between
    place bigint    -- from 1, the last, to number
)
    returns timestamptz
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_early timestamptz := after;  -- too many slots come after this,
    v_early_number bigint := number;
    v_late timestamptz := upto;    -- and too few after this
    v_late_number bigint := 0;
    v_guess timestamptz := after;
    v_number bigint := number;
    v_even boolean := true;
begin
    for v_turn in 1..120 loop
        exit when v_number = place;
        -- in seconds, for a day is one of the session's time zone
        v_guess := v_late - make_interval(
            secs => extract(epoch from v_late - v_early)::float8 * case
                when v_even then (place - v_late_number)::float8 / (v_early_number - v_late_number)
                else 0.5
            end
        );
        v_even := not v_even;
        v_number := rota._slots_between(schedule, v_guess, upto);

        if v_number > place then
            v_early := v_guess;
            v_early_number := v_number;
        else
            v_late := v_guess;
            v_late_number := v_number;
        end if;
    end loop;

    return rota._slot_after(schedule, v_guess);
end;
$$;

comment on function rota._slot_from_end is
    'Find the slot of a schedule that is so many places from the last one before a moment.';
