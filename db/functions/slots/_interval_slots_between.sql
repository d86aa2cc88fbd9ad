-- Exact: from the places on the grid of the slots that come next after both moments. Two places
-- fall on one moment only where the clocks skip a whole day, with a slot as it begins.
create or replace function rota._interval_slots_between(
    starts_at timestamptz,
    every interval,
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
    v_number bigint := (
        rota._interval_next(starts_at, every, _interval_slots_between.time_zone, upto)
    ).number - (
        rota._interval_next(starts_at, every, _interval_slots_between.time_zone, after)
    ).number;
begin
    if extract(day from every) <> 1 or extract(epoch from every) <> 86400 then
        return v_number;
    end if;

    return v_number - (
        select count(*)
        from unnest(
            rota._zone_changes(
                _interval_slots_between.time_zone,
                date_trunc('second', after at time zone 'UTC'),
                date_trunc('second', upto at time zone 'UTC')
            )
        ) as u(utc)
        cross join lateral (
            select
                u.utc at time zone 'UTC' at time zone _interval_slots_between.time_zone,
                (u.utc - interval '1 second')
                    at time zone 'UTC' at time zone _interval_slots_between.time_zone
        ) as l(local_then, local_before)
        where l.local_then - l.local_before > interval '1 day'
            and l.local_then::time
                = (starts_at at time zone _interval_slots_between.time_zone)::time
    );
end;
$$;

comment on function rota._interval_slots_between is
    'Count the slots of an interval''s grid after one moment and up to another.';
