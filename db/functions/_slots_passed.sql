-- What a run that has ended leaves behind it: slots that came while it was under way, and retries
-- that it still had when the next slot came.
create or replace function rota._slots_passed(
    job_id bigint,
    slot timestamptz,
    next_slot timestamptz,
    retries_left boolean,
    out slots bigint,
    out reason text
)
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule rota.schedules;
begin
    select s.* into v_schedule
    from rota.schedules as s
    where s.job_id = _slots_passed.job_id;

    if v_schedule.fixed_delay or not isfinite(next_slot) then
        slots := 0;
    else
        slots := (
            rota._slots_between(v_schedule, slot, next_slot - interval '1 microsecond', 1)
        ).number;
    end if;

    reason := nullif(
        concat_ws(
            '; ',
            case when slots > 0
                then format('%s slots came while the run was under way', slots)
            end,
            case when retries_left then 'its retries were given up because the next slot came' end
        ),
        ''
    );
end;
$$;

comment on function rota._slots_passed is
    'Say how many slots a schedule passes over between a run and its next, and why.';
