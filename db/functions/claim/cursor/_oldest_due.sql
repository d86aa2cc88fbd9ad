drop function if exists rota._oldest_due(text, integer, timestamptz);

-- A look without a lock: it decides only which lane of equal priority is asked first. What lies
-- behind a cursor counts as due since this session last looked there, so that it looks there again
-- however much there is to do in other lanes.
create or replace function rota._oldest_due(
    queue text,
    priority integer,
    at timestamptz,
    shared boolean
)
    returns timestamptz
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_cursor rota.lane_cursors := rota._lane_cursor(priority, queue, at, shared);
begin
    return least(case when v_cursor.run_at > '-infinity' then v_cursor.swept_at end, (
        select j.run_at
        from rota.live_jobs as j
        where j.queue = _oldest_due.queue
            and rota._lane(j.key, j.priority) = _oldest_due.priority
            and (j.counted and j.left_lane) is not true
            and (j.run_at, j.id) >= (v_cursor.run_at, v_cursor.id)
            and j.run_at <= at
            and j.state = 'SCHEDULED'
        order by j.run_at, j.id
        limit 1
    ));
end;
$$;

comment on function rota._oldest_due is
    'Say since when the oldest due job of a lane waits; null when none is due.';
