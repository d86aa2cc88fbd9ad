-- A look without a lock, over the same rows as a claim's. What a claim steps over because it is
-- dead to everybody is gone from the index when we come; what an old snapshot pins is not. The
-- first look finds nothing, and is not timed: a new session makes its plan then.
create or replace function rota._scan_time(
    queue text,
    priority integer,
    at timestamptz
)
    returns interval
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_until timestamptz;
    v_began timestamptz;
begin
    foreach v_until in array array['-infinity', at] loop
        v_began := clock_timestamp();

        perform
        from rota.live_jobs as j
        where j.queue = _scan_time.queue
            and rota._lane(j.key, j.priority) = _scan_time.priority
            and (j.counted and j.left_lane) is not true
            and j.run_at <= v_until
            and j.state = 'SCHEDULED'
        order by j.run_at, j.id
        limit 1;
    end loop;

    return clock_timestamp() - v_began;
end;
$$;

comment on function rota._scan_time is
    'Measure how long it takes to find the first due job of a lane, from the lane''s start.';
