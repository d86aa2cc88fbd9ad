-- Bisection over whole seconds, so it ends. At most one change of offset may lie in between, which
-- holds for every span of up to 50 hours: no two changes in the tz database are closer than 95.
create or replace function rota._local_shift(
    utc_before timestamp,
    utc_after timestamp,
    time_zone text
)
    returns timestamp
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_before timestamp := utc_before;
    v_after timestamp := utc_after;
    v_middle timestamp;
    v_offset constant interval :=
        utc_after at time zone 'UTC' at time zone _local_shift.time_zone - utc_after;
begin
    while v_after - v_before > interval '1 second' loop
        v_middle := v_before + date_trunc('second', (v_after - v_before) / 2);
        if v_middle at time zone 'UTC' at time zone _local_shift.time_zone - v_middle
            = v_offset
        then
            v_after := v_middle;
        else
            v_before := v_middle;
        end if;
    end loop;

    return v_after;
end;
$$;

comment on function rota._local_shift is
    'Find the moment (in UTC) between two others at which a zone changes its offset from UTC.';
