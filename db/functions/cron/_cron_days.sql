-- Pure arithmetic on its arguments; first_day is a first of a month from the year 1 on.
create or replace function rota._cron_days(
    first_day date,
    days bigint,
    last_days bigint,
    weekdays bigint,
    either_day boolean
)
    returns bigint
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_length constant integer := (first_day + interval '1 month')::date - first_day;
    v_month constant bigint := (1::bigint << (v_length + 1)) - 2;
    -- the weekday of the month's day 0, Sunday being 0; 0001-01-01 was a Monday
    v_eve constant integer := (first_day - date '0001-01-01') % 7;
    v_by_date bigint := days & v_month;
    v_by_weekday bigint := 0;
    v_weekdays bigint;
    v_left bigint;
    v_day integer;
begin
    -- so many days before the last
    v_left := last_days & ((1::bigint << v_length) - 1);
    while v_left > 0 loop
        v_by_date := v_by_date | (1::bigint << (v_length - rota._cron_lowest(v_left)));
        v_left := v_left & (v_left - 1);
    end loop;

    -- the weekdays nearest to a day, which stay in its month; so LW is the one nearest to the last
    v_left := ((days >> 31) | ((last_days >> 31) << v_length)) & v_month;
    while v_left > 0 loop
        v_day := rota._cron_lowest(v_left);
        v_left := v_left & (v_left - 1);
        v_by_date := v_by_date | (1::bigint << case (v_eve + v_day) % 7
            when 6 then case when v_day = 1 then 3 else v_day - 1 end
            when 0 then case when v_day = v_length then v_day - 2 else v_day + 1 end
            else v_day
        end);
    end loop;

    for v_week in 0..6 loop
        v_weekdays := (weekdays >> (7 * v_week)) & 127;
        continue when v_weekdays = 0;
        -- turned so that bit 0 is the weekday of day 1, then five times in a row from day 1 on
        v_weekdays := (((v_weekdays * 129) >> ((v_eve + 1) % 7)) & 127) * 270549121 * 2;
        v_by_weekday := v_by_weekday | (v_weekdays & case v_week
            when 0 then v_month
            when 6 then v_month & (127::bigint << (v_length - 6))
            else v_month & (254::bigint << (7 * (v_week - 1)))
        end);
    end loop;

    return case
        when either_day then v_by_date | v_by_weekday
        else v_by_date & v_by_weekday
    end;
end;
$$;

comment on function rota._cron_days is
    'Give the days of a month that a cron expression matches; bit n is day n.';
