-- Strictly later than the slot it follows, so a clock that was put back makes no slot twice, and
-- later than now, so that slots which passed meanwhile are coalesced into the run that just ended.
create or replace function rota._next_slot(
    job_id bigint,
    scheduled_for timestamptz,
    at timestamptz
)
    returns timestamptz
    language plpgsql
    volatile
    set search_path = ''
as $$
declare
    v_schedule rota.schedules;
begin
    select s.* into v_schedule
    from rota.schedules as s
    where s.job_id = _next_slot.job_id;

    return rota._slot_after(
        v_schedule.every, v_schedule.cron, v_schedule.time_zone, v_schedule.starts_at,
        greatest(scheduled_for, at)
    );
end;
$$;

comment on function rota._next_slot is
    'Say when a schedule runs next, after this slot and after this time.';
