-- Walks up to 1,000 slots, which a cron expression answers in a tenth of a second. Beyond that the
-- number is computed where the grid is even, else it is estimated from the walk; the last slots
-- are walked in a window that is widened until it holds enough of them, so they are always exact.
create or replace function rota._slots_between(
    schedule rota.schedules,
    after timestamptz,
    upto timestamptz,
    keep integer
)
    returns rota.slot_list
    language plpgsql
    stable
    set search_path = ''
as $$
declare
    v_walk constant integer := 1000;
    v_slots timestamptz[] := '{}';
    v_slot timestamptz := rota._slot_after(schedule, after);
    v_number bigint;
    v_window interval;
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

            while v_slot <= upto loop
                v_slots := v_slots || v_slot;
                v_slot := rota._slot_after(schedule, v_slot);
            end loop;

            exit when cardinality(v_slots) >= keep;
            v_window := v_window * 2;
        end loop;
    end if;

    return row(
        v_number, v_slots[greatest(cardinality(v_slots) - keep + 1, 1):]
    )::rota.slot_list;
end;
$$;

comment on function rota._slots_between is
    'Count the slots of a schedule after one time and up to another, and list the last of them.';
