-- Pure arithmetic, total for every argument: there is no slot where the next would come after the
-- year 9999, and neither slot nor place where the interval does not move forward. Nothing
-- overflows, because periods beyond 10,000 years are sorted out before anything is multiplied.
--
-- Slot n is starts_at + n * every, never slot n - 1 + every: thus the 31st stays the 31st after a
-- shorter month, and nothing drifts. Months and days are added on the calendar of the zone (with
-- _local_instant's answer to skipped and repeated times), hours and less as elapsed time.
create or replace function rota._interval_next(
    starts_at timestamptz,
    every interval,
    time_zone text,
    after timestamptz,
    out number bigint,
    out slot timestamptz
)
    returns record
    language plpgsql
    stable
    strict
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_months integer;
    v_days integer;
    v_seconds numeric;
    v_period numeric;
    v_elapsed numeric;
    v_local timestamp;
begin
    if after < starts_at then
        number := 0;
        slot := starts_at;
        return;
    end if;
    if not (isfinite(starts_at) and isfinite(every)) or after >= '9999-12-31 00:00:00+00' then
        return;
    end if;

    v_months := extract(year from every) * 12 + extract(month from every);
    v_days := extract(day from every);
    v_seconds := extract(hour from every) * 3600
        + extract(minute from every) * 60 + extract(second from every);
    -- 2,629,746 seconds are a 4,800th of the 400 years in which the calendar repeats
    v_period := v_months * 2629746.0 + v_days * 86400.0 + v_seconds;
    if v_months < 0 or v_days < 0 or v_seconds < 0
        or v_period not between 0.000001 and 10000 * 31556952.0
    then
        return;
    end if;

    v_elapsed := extract(epoch from after) - extract(epoch from starts_at);
    if v_months = 0 and v_days = 0 then
        number := div(v_elapsed, v_period) + 1;
        slot := after
            + make_interval(secs => (v_period - mod(v_elapsed, v_period))::double precision);
    else
        -- The estimate is at most three slots too high: months differ from their mean by less than
        -- two days for each, four in all, and a zone's offset by a day.
        v_local := starts_at at time zone _interval_next.time_zone;
        number := greatest(floor(v_elapsed / v_period) - 3, 0);
        loop
            number := number + 1;
            slot := rota._local_instant(
                v_local + make_interval(
                    months => (number * v_months)::integer, days => (number * v_days)::integer
                ),
                _interval_next.time_zone
            ) at time zone 'UTC' + make_interval(secs => (number * v_seconds)::double precision);
            exit when slot > after;
        end loop;
    end if;

    if slot >= '9999-12-31 00:00:00+00' then
        slot := null;
    end if;
end;
$$;

comment on function rota._interval_next is
    'Give the least moment after another on the grid that starts at starts_at and repeats, and its '
    'place on the grid, from 0.';
