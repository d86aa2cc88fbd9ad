-- Pure arithmetic: whole days before the last, whole hours of it, and so on.
create or replace function rota._cron_month_until(spec record, local_upto timestamp)
    returns bigint
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_month constant date := date_trunc('month', local_upto);
    v_day constant integer := extract(day from local_upto);
    v_hour constant integer := extract(hour from local_upto);
    v_minute constant integer := extract(minute from local_upto);
    v_second constant integer := floor(extract(second from local_upto));
    v_days bigint;
begin
    if (spec.months >> extract(month from local_upto)::integer) & 1 = 0 then
        return 0;
    end if;

    v_days := rota._cron_days(
        v_month, spec.days, spec.last_days, spec.weekdays, spec.either_day
    );

    return rota._ones(v_days & ((1::bigint << v_day) - 1)) * rota._ones(spec.hours)
            * rota._ones(spec.minutes) * rota._ones(spec.seconds)
        + ((v_days >> v_day) & 1) * (
            rota._ones(spec.hours & ((1::bigint << v_hour) - 1))
                * rota._ones(spec.minutes) * rota._ones(spec.seconds)
            + ((spec.hours >> v_hour) & 1) * (
                rota._ones(spec.minutes & ((1::bigint << v_minute) - 1)) * rota._ones(spec.seconds)
                + ((spec.minutes >> v_minute) & 1)
                    * rota._ones(spec.seconds & ((2::bigint << v_second) - 1))
            )
        );
end;
$$;

comment on function rota._cron_month_until is
    'Count the local times that a parsed cron expression matches from the first of a month on.';
