-- Looks at the local times that the clocks had just skipped at this moment, if they did; for a
-- long gap it stops when it has a few.
create or replace function rota._cron_locals(cron text, time_zone text, slot timestamptz)
    returns timestamp[]
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_spec record := rota._cron_parse(cron);
    v_second constant interval := interval '1 second';
    v_until constant timestamp := slot at time zone _cron_locals.time_zone;
    v_local timestamp := (slot - v_second) at time zone _cron_locals.time_zone;
    v_locals timestamp[] := '{}';
begin
    if v_spec.elapsed then
        return array[v_until];
    end if;

    v_local := least(v_local, v_until - v_second);

    loop
        v_local := rota._cron_next_local(v_spec, v_local);
        exit when v_local > v_until or v_local is null or cardinality(v_locals) = 4;
        v_locals := v_locals || v_local;
    end loop;

    return v_locals;
end;
$$;

comment on function rota._cron_locals is
    'List the local times named by a cron expression that fall on a slot, up to four.';
