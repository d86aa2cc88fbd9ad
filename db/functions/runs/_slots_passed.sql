-- What a run that has ended leaves behind it: slots that came while it was under way, and retries
-- that it still had when the next slot came. Total, as _find_slot_after is.
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
    v_error text;
begin
    select s.* into v_schedule
    from rota.schedules as s
    where s.job_id = _slots_passed.job_id;

    begin
        slots := case
            when v_schedule.fixed_delay or next_slot is null then 0
            else rota._slots_between(v_schedule, slot, next_slot - interval '1 microsecond')
        end;
    exception
        when others then
            if rota._is_passing(sqlstate) then
                raise;
            end if;

            v_error := rota._slot_error(sqlerrm);
    end;

    reason := nullif(
        concat_ws(
            '; ',
            case when slots > 0
                then format('%s slots came while the run was under way', slots)
            end,
            case when retries_left then 'its retries were given up because the next slot came' end,
            v_error
        ),
        ''
    );
end;
$$;

comment on function rota._slots_passed is
    'Say how many slots a schedule passes over between a run and its next, and why.';
