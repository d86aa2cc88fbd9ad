drop function if exists rota.preview_schedule(text, interval, text, integer, timestamptz);

-- Reads nothing but its arguments and the clock. The runs are those of a schedule that is saved
-- with this starts_at, from_time if it is left out, nobody being late: an interval's grid is
-- anchored there, and only runs from from_time on are listed.
create or replace function rota.preview_schedule(
    cron text default null,
    every interval default null,
    time_zone text default 'UTC',
    n integer default 10,
    from_time timestamptz default null,
    starts_at timestamptz default null
)
    returns setof rota.previewed_run
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_from timestamptz := coalesce(from_time, rota._now());
    v_start timestamptz := coalesce(starts_at, v_from);
    v_slot timestamptz := greatest(v_from, v_start) - interval '1 microsecond';
    v_number bigint;
    v_locals timestamp[];
    v_local timestamp;
    v_offset interval;
begin
    perform rota._check_schedule(
        'preview', '{}', every, cron, time_zone, null, 'default', 0, null, null, null, null
    );

    if n is null or n not between 1 and 1000 then
        raise exception 'n must be from 1 to 1000, not %', coalesce(n::text, 'null')
            using errcode = 'RTV01';
    end if;

    if v_from not between '0001-01-02 00:00:00+00' and '9998-12-31 00:00:00+00' then
        raise exception 'from_time must lie between the years 1 and 9998, not at %',
            rota._utc_text(v_from)
            using errcode = 'RTV01';
    end if;

    if v_start not between '0001-01-02 00:00:00+00' and '9998-12-31 00:00:00+00' then
        raise exception 'starts_at must lie between the years 1 and 9998, not at %',
            rota._utc_text(v_start)
            using errcode = 'RTV01';
    end if;

    v_number := (
        rota._interval_next(v_start, every, preview_schedule.time_zone, v_slot)
    ).number;

    for v_run in 1..n loop
        if cron is null then
            v_slot := rota._interval_slot(v_start, every, preview_schedule.time_zone, v_slot);
            exit when v_slot is null;

            select l.number, l.locals into v_number, v_locals
            from rota._interval_locals(
                v_start, every, preview_schedule.time_zone, v_slot, v_number
            ) as l;
        else
            exit when v_slot > '9998-12-31 00:00:00+00';
            v_slot := rota.next_run(cron, preview_schedule.time_zone, v_slot);
            v_locals := rota._cron_locals(cron, preview_schedule.time_zone, v_slot);
        end if;

        v_local := v_slot at time zone preview_schedule.time_zone;
        v_offset := v_local - v_slot at time zone 'UTC';

        return next row(
            v_slot,
            to_char(v_local, 'YYYY-MM-DD HH24:MI:SS')
                || case when v_offset < interval '0' then '-' else '+' end
                || to_char(greatest(v_offset, -v_offset), 'HH24:MI'),
            rota._clock_note(v_slot, preview_schedule.time_zone, v_locals)
        )::rota.previewed_run;
    end loop;
end;
$$;

comment on function rota.preview_schedule is
    'List the next runs of a cron expression or an interval, and what the clocks do to them.';
