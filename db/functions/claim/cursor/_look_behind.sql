drop function if exists rota._look_behind(text, integer, timestamptz, integer);

-- A sweep takes in all that lies behind a cursor, back from where the cursor stood when it began,
-- in slices of run_at. A slice that took little time is followed by a longer one, and one that took
-- more than a millisecond by a shorter one, so that no claim is held up by all that is pinned. That
-- holds for jobs that come as time goes by: those of one moment are in one slice, and after hours
-- without any a slice is hours long.
--
-- A session spends a fiftieth of its time on this in each lane, and no more than 20 ms at once. One
-- that claims at least once a second therefore finds a job that lies behind within 50 times what a
-- scan of all would take; within 100 times if the job just missed one sweep. To find something is
-- not counted, so what lies behind is then claimed as fast as any job. Something else that took
-- long, as a lock does, puts off the next look by a minute at most.
-- A sweep that took less than a millisecond shows that nothing is pinned any more, or never was (a
-- scan that only waited for a lock was slow, too): there is no cursor then any more. Where cursors
-- are shared, sessions make a sweep together (_newest_cursor). In a new session the first slice is
-- one in which nothing lies, and is not timed: its plan is made then.
--
-- The rows are locked as those of a claim's own scan are (claim_next_job). When a slice yields all
-- there is room for, there may be more in it, and it is looked at again.
create or replace function rota._look_behind(
    queue text,
    priority integer,
    at timestamptz,
    room integer,
    shared boolean
)
    returns rota.looked_behind
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_cursor rota.lane_cursors := rota._lane_cursor(priority, queue, at, shared);
    v_budget interval := least((at - v_cursor.swept_at) / 50, interval '20 ms');
    v_behind rota.looked_behind := row(v_cursor, null, null);
    v_is_first boolean := not rota._has_lane_cursor(queue, priority);
    v_began timestamptz := clock_timestamp();
    v_slice_began timestamptz;
    v_took interval;
    v_down_to timestamptz;
    v_found integer;
begin
    if v_cursor.noted_at is null then
        if not v_is_first then
            perform set_config(rota._lane_setting(queue, priority), '', false);
        end if;

        return null;
    end if;

    if v_cursor.run_at = '-infinity' or v_budget < interval '200 us' then
        return v_behind;
    end if;

    if v_cursor.swept_run_at is null then
        v_cursor.swept_run_at := v_cursor.run_at;
        v_cursor.swept_id := v_cursor.id;
        v_cursor.slice := interval '1 ms';
        v_cursor.sweep_took := interval '0';
    end if;

    loop
        v_slice_began := clock_timestamp();
        v_down_to := case
            when v_is_first then 'infinity'
            when v_cursor.slice >= interval '100 years' then '-infinity'
            else v_cursor.swept_run_at - v_cursor.slice
        end;

        select array_agg(p.place), bool_or(p.recurring)
        into v_behind.places, v_behind.recurring
        from (
            select j.ctid as place, j.schedule_type <> 'ONE_TIME' as recurring
            from rota.live_jobs as j
            where j.queue = _look_behind.queue
                and rota._lane(j.key, j.priority) = _look_behind.priority
                and (j.counted and j.left_lane) is not true
                and j.run_at >= v_down_to
                and (j.run_at, j.id) < (v_cursor.swept_run_at, v_cursor.swept_id)
                and j.state = 'SCHEDULED'
            order by j.run_at, j.id
            limit room
            for no key update skip locked
        ) as p;

        if v_is_first then
            v_is_first := false;
            continue;
        end if;

        v_took := clock_timestamp() - v_slice_began;
        v_found := coalesce(cardinality(v_behind.places), 0);
        v_cursor.sweep_took := v_cursor.sweep_took + v_took;
        exit when v_found = room;

        v_cursor.swept_run_at := v_down_to;
        v_cursor.swept_id := 0;

        if v_took > interval '1 ms' then
            v_cursor.slice := greatest(v_cursor.slice / 4, interval '1 ms');
        elsif v_took < interval '250 us' then
            v_cursor.slice := v_cursor.slice * 2;
        end if;

        if v_down_to = '-infinity' then
            if not rota._is_slow(v_cursor.sweep_took, 0) then
                v_cursor.noted_at := null;
            end if;

            v_cursor.swept_run_at := null;
            v_cursor.sweeps := v_cursor.sweeps + 1;
            exit;
        end if;

        exit when v_found > 0 or clock_timestamp() > v_began + v_budget;
    end loop;

    if v_found > 0 and not rota._is_slow(v_took, v_found) then
        v_cursor.swept_at := at - interval '1 second';
    else
        v_cursor.swept_at := least(
            greatest(at, v_cursor.swept_at + 50 * (clock_timestamp() - v_began)),
            at + interval '1 minute'
        );
    end if;

    v_behind.cursor := v_cursor;
    return v_behind;
end;
$$;

comment on function rota._look_behind is
    'Lock due jobs of a lane that lie behind a cursor, if it is time to look there.';
