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
    set search_path = ''
as $$
declare
    v_length constant integer := (first_day + interval '1 month')::date - first_day;
    v_month constant bigint := (1::bigint << (v_length + 1)) - 2;
    -- the weekday of the month's day 0, Sunday being 0; 0001-01-01 was a Monday
    v_eve constant integer := (first_day - date '0001-01-01') % 7;
    v_by_date bigint := days & v_month;
    v_by_weekday bigint := 0;
    v_weekdays bigint;
    v_day integer;
    v_weekday integer;
begin
    if last_days > 0 or days >= 1::bigint << 32 then
        for v_n in 1..v_length loop
            -- the last weekday is the weekday nearest to the last day, which never crosses the end
            if (days >> (31 + v_n)) & 1 = 1 or (v_n = v_length and (last_days >> 31) & 1 = 1) then
                v_weekday := (v_eve + v_n) % 7;
                v_day := case
                    when v_weekday = 6 and v_n = 1 then 3
                    when v_weekday = 6 then v_n - 1
                    when v_weekday = 0 and v_n = v_length then v_n - 2
                    when v_weekday = 0 then v_n + 1
                    else v_n
                end;
                v_by_date := v_by_date | (1::bigint << v_day);
            end if;
            if (last_days >> (v_length - v_n)) & 1 = 1 then
                v_by_date := v_by_date | (1::bigint << v_n);
            end if;
        end loop;
    end if;

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
