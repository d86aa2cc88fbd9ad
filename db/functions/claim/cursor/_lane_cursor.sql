drop function if exists rota._lane_cursor(integer, text, timestamptz);

-- See _note_scan for what the cursor is. Two lanes may share a setting, whose name is a hash,
-- so the value names its lane, and another lane's is not used. A clock that was put back makes the
-- cursor void, else it would hide what is enqueued now. An empty setting is what a session keeps of
-- one whose transaction rolled back. The snapshot is taken here, before the scan.
-- A session may set anything itself, and others are told of it: what no cursor can be is none.
-- A place is settled when what was open has ended, or has been waited for long enough.
-- Where cursors are shared, what others found is looked at once a second.
create or replace function rota._lane_cursor(
    priority integer,
    queue text,
    at timestamptz,
    shared boolean
)
    returns rota.lane_cursors
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_cursor rota.lane_cursors := nullif(
        current_setting(rota._lane_setting(queue, priority), true), ''
    )::rota.lane_cursors;
begin
    if (
        v_cursor.queue = queue and v_cursor.priority = priority
        and at >= v_cursor.noted_at and at >= v_cursor.next_run_at
        and v_cursor.next_run_at >= v_cursor.run_at
        and v_cursor.swept_at <= at + interval '1 minute'
        and coalesce(v_cursor.swept_run_at <= v_cursor.run_at, true)
        and coalesce(v_cursor.slice >= interval '1 ms', true)
        and coalesce(v_cursor.shared_at <= at, true)
    ) is not true then
        v_cursor := null;
    end if;

    if shared and rota._is_time_to_share(v_cursor.shared_at, at) then
        v_cursor := rota._newest_cursor(v_cursor, queue, priority, at);
    end if;

    if v_cursor.noted_at is not null then
        v_cursor.settled := at > v_cursor.noted_at + interval '2 seconds'
            or v_cursor.sure and v_cursor.next_xid < pg_snapshot_xmin(pg_current_snapshot());
        return v_cursor;
    end if;

    v_cursor := null;
    v_cursor.queue := queue;
    v_cursor.priority := priority;
    v_cursor.run_at := '-infinity';
    v_cursor.id := 0;
    v_cursor.sweeps := 0;
    return v_cursor;
end;
$$;

comment on function rota._lane_cursor is
    'Say where this session starts to look for the jobs of a lane: its start, or a cursor.';
