-- Exact, and says of each slot what next_run says: between two changes of the zone's offset, slots
-- and local times are the same but for that offset, so they are counted without walking them.
--
-- What a change does to a pattern (elapsed) comes out of that by itself: skipped times are in no
-- stretch, repeated ones in both. Fixed times have their run at the first occurrence of a repeated
-- time, so they count from where the repetition ends, and those that are skipped have one run at
-- the end of the gap, together with the time that the clocks then show. A repetition may have begun
-- before the span, by no more than a day, which is how far the largest change goes.
create or replace function rota._cron_slots_between(
    cron text,
    time_zone text,
    after timestamptz,
    upto timestamptz
)
    returns bigint
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_spec constant record := rota._cron_parse(cron);
    v_second constant interval := interval '1 second';
    -- matches are whole seconds, so what is less may go
    v_after constant timestamp := date_trunc('second', after at time zone 'UTC');
    v_upto constant timestamp := date_trunc('second', upto at time zone 'UTC');
    v_number bigint := 0;
    v_from timestamp := v_after - interval '25 hours';
    v_change timestamp;
    v_offset interval :=
        v_from at time zone 'UTC' at time zone _cron_slots_between.time_zone - v_from;
    v_offset_before interval := v_offset;
begin
    foreach v_change in array
        rota._zone_changes(_cron_slots_between.time_zone, v_from, v_upto) || (v_upto + v_second)
    loop
        -- the stretch from v_from until before v_change
        v_number := v_number + rota._cron_locals_between(
            v_spec,
            greatest(
                v_after + v_offset,
                v_from + v_offset - v_second,
                case when not v_spec.elapsed then v_from + v_offset_before - v_second end
            ),
            v_change + v_offset - v_second
        );
        exit when v_change > v_upto;

        v_from := v_change;
        v_offset_before := v_offset;
        v_offset := v_from at time zone 'UTC' at time zone _cron_slots_between.time_zone - v_from;

        if not v_spec.elapsed and v_from > v_after
            and rota._cron_locals_between(
                v_spec, v_from + v_offset_before - v_second, v_from + v_offset - v_second
            ) > 0
            and rota._cron_locals_between(
                v_spec, v_from + v_offset - v_second, v_from + v_offset
            ) = 0
        then
            v_number := v_number + 1;
        end if;
    end loop;

    return v_number;
end;
$$;

comment on function rota._cron_slots_between is
    'Count the slots of a cron expression in a time zone after one moment and up to another.';
