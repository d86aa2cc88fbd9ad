create or replace function rota._slot_after(
    every interval,
    cron text,
    time_zone text,
    starts_at timestamptz,
    after timestamptz
)
    returns timestamptz
    language plpgsql
    volatile
    set search_path = ''
as $$
begin
    if cron is null then
        return rota._interval_slot(starts_at, every, time_zone, after);
    end if;

    return rota.next_run(cron, time_zone, greatest(after, starts_at - interval '1 microsecond'));
end;
$$;

comment on function rota._slot_after is
    'Say which slot of an interval''s grid, or of a cron expression, comes first after a time.';
