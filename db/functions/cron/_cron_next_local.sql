-- It jumps from month to matching month and ends after 60 years: no day that can come at all
-- stays away for longer than 40 (a fifth Monday in February, around a century without leap year).
create or replace function rota._cron_next_local(
    spec record,
    local_after timestamp
)
    returns timestamp
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_year integer := extract(year from local_after);
    v_month integer := extract(month from local_after);
    v_day integer := extract(day from local_after);
    v_hour integer := extract(hour from local_after);
    v_minute integer := extract(minute from local_after);
    v_second integer := extract(second from local_after);
    v_last_year constant integer := least(v_year + 60, 9999);
    v_first_day date;
    v_days bigint;
begin
    -- the next matching time of the same day, if there is one; v_hour is null otherwise
    if (spec.hours >> v_hour) & 1 = 1 then
        if (spec.minutes >> v_minute) & 1 = 1 then
            v_second := rota._cron_lowest(spec.seconds >> (v_second + 1) << (v_second + 1));
        else
            v_second := null;
        end if;
        if v_second is null then
            v_minute := rota._cron_lowest(spec.minutes >> (v_minute + 1) << (v_minute + 1));
        end if;
    else
        v_second := null;
        v_minute := null;
    end if;
    if v_minute is null then
        v_hour := rota._cron_lowest(spec.hours >> (v_hour + 1) << (v_hour + 1));
    end if;

    loop
        if (spec.months >> v_month) & 1 = 1 then
            v_first_day := make_date(v_year, v_month, 1);
            v_days := rota._cron_days(
                v_first_day, spec.days, spec.last_days, spec.weekdays, spec.either_day
            );
            if v_hour is null or (v_days >> v_day) & 1 = 0 then
                v_day := rota._cron_lowest(v_days >> (v_day + 1) << (v_day + 1));
                v_hour := null;
                v_minute := null;
                v_second := null;
            end if;
            if v_day is not null then
                return v_first_day + (v_day - 1) + make_time(
                    coalesce(v_hour, rota._cron_lowest(spec.hours)),
                    coalesce(v_minute, rota._cron_lowest(spec.minutes)),
                    coalesce(v_second, rota._cron_lowest(spec.seconds))
                );
            end if;
        end if;

        v_day := 0;
        v_hour := null;
        v_month := rota._cron_lowest(spec.months >> (v_month + 1) << (v_month + 1));
        if v_month is null then
            v_year := v_year + 1;
            v_month := rota._cron_lowest(spec.months);
        end if;
        if v_year > v_last_year then
            return null;
        end if;
    end loop;
end;
$$;

comment on function rota._cron_next_local is
    'Give the least local time after another that a parsed cron expression matches, if any.';
