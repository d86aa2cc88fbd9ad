-- What a session knows, and what the newest shared cursor says: of both the place that is further
-- on, and of both the sweep that is further on. So the sessions of a lane make one sweep together,
-- however short they are. That of a lane's sweeps with the higher number begins after one before it
-- ended, so whatever lies behind is found by the second to end from now on. A sweep is never ahead
-- of the place that it comes with, and places only grow: what is locked in a look behind is never
-- found again ahead.
--
-- A session that has no cursor takes all of it. If nobody looked behind for a second it does so
-- itself, else it leaves that to others. What it did, or that it is the first to start elsewhere
-- than at the lane's start, it shares: it may make no other claim.
--
-- A session tells of one sweep more than is known, not of any number: it may have set its cursor
-- itself. One whose cursor was given up (_look_behind) leaves a row without a place, upon which all
-- forget theirs. Rows of a time that is yet to come are of a clock that was put back, and not used.
create or replace function rota._newest_cursor(
    own rota.lane_cursors,
    queue text,
    priority integer,
    at timestamptz
)
    returns rota.lane_cursors
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_newest rota.lane_cursors;
begin
    select c.* into v_newest
    from rota.lane_cursors as c
    where c.queue = _newest_cursor.queue
        and c.priority = _newest_cursor.priority
        and c.shared_at <= at
    order by c.shared_at desc
    limit 1;

    own.sweeps := least(own.sweeps, coalesce(v_newest.sweeps + 1, 0));

    if not found or v_newest.shared_at = own.shared_at then
        return own;
    end if;

    if v_newest.noted_at is null then
        return null;
    end if;

    if own.noted_at is null then
        if at >= v_newest.swept_at + interval '1 second' or v_newest.run_at = '-infinity' then
            v_newest.shared_at := null;
        else
            v_newest.swept_at := greatest(v_newest.swept_at, at);
        end if;

        return v_newest;
    end if;

    if (v_newest.run_at, v_newest.id) > (own.run_at, own.id) then
        own.run_at := v_newest.run_at;
        own.id := v_newest.id;
        own.next_run_at := v_newest.next_run_at;
        own.next_id := v_newest.next_id;
        own.next_xid := v_newest.next_xid;
        own.sure := v_newest.sure;
        own.noted_at := v_newest.noted_at;
    end if;

    if (-v_newest.sweeps, coalesce(v_newest.swept_run_at, 'infinity'), v_newest.swept_id)
        < (-own.sweeps, coalesce(own.swept_run_at, 'infinity'), own.swept_id)
    then
        own.sweeps := v_newest.sweeps;
        own.swept_run_at := v_newest.swept_run_at;
        own.swept_id := v_newest.swept_id;
        own.slice := v_newest.slice;
        own.sweep_took := v_newest.sweep_took;
    end if;

    own.shared_at := v_newest.shared_at;
    return own;
end;
$$;

comment on function rota._newest_cursor is
    'Bring together a session''s cursor of a lane and the newest that was shared.';
