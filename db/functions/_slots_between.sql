-- Walks up to 1,000 slots, which a cron expression answers in a tenth of a second. Beyond that the
-- number is computed where the grid is even, else it is estimated from the walk. The last slots are
-- always exact: they are walked in a window that is widened until it holds enough of them, and
-- narrowed when it holds far too many (a grid may be dense in January and empty until December).
create or replace function rota._slots_between(
    schedule rota.schedules,
    after timestamptz,
    upto timestamptz,
    keep integer
)
    returns rota.slot_list
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_walk constant integer := 1000;
    v_slots timestamptz[] := '{}';
    v_slot timestamptz := rota._slot_after(schedule, after);
    v_number bigint;
    v_window interval;
    v_narrow interval := '0';
    v_wide interval;
begin
    while v_slot <= upto and cardinality(v_slots) < v_walk loop
        v_slots := v_slots || v_slot;
        v_slot := rota._slot_after(schedule, v_slot);
    end loop;

    v_number := cardinality(v_slots);

    if v_slot <= upto then
        v_number := v_number + greatest(floor(
            extract(epoch from upto - v_slots[v_walk])
                / (extract(epoch from v_slots[v_walk] - v_slots[1]) / (v_walk - 1))
        ), 1)::bigint;
        v_window := (v_slots[v_walk] - v_slots[1]) / v_walk * (keep + 1);

        loop
            v_slots := '{}';
            v_slot := rota._slot_after(schedule, upto - v_window);

            while v_slot <= upto and cardinality(v_slots) < 2 * keep + 100 loop
                v_slots := v_slots || v_slot;
                v_slot := rota._slot_after(schedule, v_slot);
            end loop;

            if v_slot <= upto then
                v_wide := v_window;
            elsif cardinality(v_slots) < keep then
                v_narrow := v_window;
            else
                exit;
            end if;

            v_window := coalesce((v_narrow + v_wide) / 2, v_window * 2);
        end loop;
    end if;

    return row(
        v_number, v_slots[greatest(cardinality(v_slots) - keep + 1, 1):]
    )::rota.slot_list;
end;
$$;

comment on function rota._slots_between is
    'Count the slots of a schedule after one time and up to another, and list the last of them.';
