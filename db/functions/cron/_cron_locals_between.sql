-- Pure arithmetic, a month at a time. Both ends are whole seconds, as all matches are.
create or replace function rota._cron_locals_between(
    spec record,
    local_after timestamp,
    local_upto timestamp
)
    returns bigint
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_number bigint;
    v_month timestamp := date_trunc('month', local_after);
    v_last_month constant timestamp := date_trunc('month', local_upto);
begin
    if local_after >= local_upto then
        return 0;
    end if;

    v_number := rota._cron_month_until(spec, local_upto)
        - rota._cron_month_until(spec, local_after);

    while v_month < v_last_month loop
        v_month := v_month + interval '1 month';
        v_number := v_number + rota._cron_month_until(spec, v_month - interval '1 second');
    end loop;

    return v_number;
end;
$$;

comment on function rota._cron_locals_between is
    'Count the local times after one and up to another that a parsed cron expression matches.';
