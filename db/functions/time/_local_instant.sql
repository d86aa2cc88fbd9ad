-- For a local time that comes twice, "at time zone" gives the second; for one that is skipped it
-- gives a moment as far behind the gap as the local time is inside it. So the answer is checked by
-- converting it back, and the offset of 25 hours before is tried for an earlier answer: no change
-- of offset is larger than 24 hours, and no two are closer than 95.
--
-- The arithmetic is on timestamps in UTC. On timestamptz, an interval of a day would mean a day
-- of the session's time zone.
create or replace function rota._local_instant(
    local_time timestamp,
    time_zone text
)
    returns timestamp
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_late constant timestamp :=
        _local_instant.local_time at time zone _local_instant.time_zone at time zone 'UTC';
    v_before constant timestamp := v_late - interval '25 hours';
    v_early timestamp;
begin
    if v_late at time zone 'UTC' at time zone _local_instant.time_zone <> local_time then
        return rota._local_shift(v_before, v_late, _local_instant.time_zone);
    end if;

    v_early := local_time
        - (v_before at time zone 'UTC' at time zone _local_instant.time_zone - v_before);
    if v_early < v_late
        and v_early at time zone 'UTC' at time zone _local_instant.time_zone = local_time
    then
        return v_early;
    end if;

    return v_late;
end;
$$;

comment on function rota._local_instant is
    'Convert a local time to UTC: its first occurrence, or the end of the gap that skips it.';
