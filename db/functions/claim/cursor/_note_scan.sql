drop function if exists rota._note_scan(
    rota.lane_scan, text, integer, timestamptz, tid[], interval, boolean, boolean
);

-- The cursor. While an old snapshot pins finished jobs, a scan of a lane steps over all of them.
-- A session whose scan was slow keeps a cursor, and its next scans start there. A scan that only
-- waited for a lock, the disk or the processor should not leave one, so a slow one is timed again;
-- one of seconds is not, for the two together might never end within a statement_timeout.
--
-- The cursor lags. What was found to be first, or the present if nothing was, becomes the next
-- place; the cursor itself moves to the one before, once that is settled: all transactions that
-- were open then have ended. A job whose transaction commits late is therefore not overlooked, nor
-- one whose claim rolls back (_enqueue_time says why later transactions do not matter). Two seconds
-- are waited for that, so that the lag is bounded where some transaction writes and stays open. A
-- job that commits later still, comes back to an earlier time or is enqueued for one lies behind
-- the cursor, where claims look bit by bit (_look_behind): being wrong only delays it.
--
-- The ids of those that were open are below our own, which a snapshot's xmax need not be, provided
-- that ours was taken after the scan's snapshot (own_id). Else the id of our next transaction is
-- waited for. Where nobody looked (looked), for lack of room, nothing was found out. A lane whose
-- scan took no time gets no cursor, and one that was given up (_look_behind) is forgotten.
--
-- Where a scan from the lane's start takes 10 ms, a session should not begin with one. Who made it
-- shares its cursor then, and marks the lane (lanes.cursor_since), so that others do as well, one a
-- second (_newest_cursor).
--
-- The setting belongs to the transaction, so a claim that rolls back takes its cursor back with it.
-- The text that is kept must be readable whatever the session's styles are by then: ISO always is.
create or replace function rota._note_scan(
    cursor rota.lane_cursors,
    queue text,
    priority integer,
    at timestamptz,
    places tid[],
    took interval,
    own_id boolean,
    looked boolean,
    shared boolean
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
    set datestyle = 'ISO, YMD'
    set intervalstyle = 'postgres'
as $$
declare
    v_had_cursor boolean := cursor.queue is not null;
    v_slow boolean := rota._is_slow(took, coalesce(cardinality(places), 0));
    v_run_at timestamptz;
    v_id bigint;
begin
    if cursor.noted_at is null then
        if v_slow and took < interval '1 second' then
            took := rota._scan_time(queue, priority, at);
            v_slow := rota._is_slow(took, 0);
        end if;

        if not v_slow then
            if v_had_cursor then
                perform set_config(rota._lane_setting(queue, priority), '', false);
            end if;

            if v_had_cursor and shared then
                cursor.shared_at := at;
                perform rota._share_cursor(cursor);
            end if;

            return;
        end if;

        shared := shared or took >= interval '10 ms';

        if not v_had_cursor then
            cursor := rota._lane_cursor(priority, queue, rota._now(), shared);
        end if;

        if cursor.noted_at is not null then
            -- Another session has shared one meanwhile, which is further on.
            perform set_config(rota._lane_setting(queue, priority), cursor::text, false);
            return;
        end if;

        cursor.swept_at := at;
    end if;

    if looked and (cursor.noted_at is null or cursor.settled) then
        select j.run_at, j.id into v_run_at, v_id
        from rota.live_jobs as j
        where j.ctid = places[1];

        if not found then
            v_run_at := at;
            v_id := 0;
        end if;

        if cursor.settled and (cursor.next_run_at, cursor.next_id) < (v_run_at, v_id) then
            cursor.run_at := cursor.next_run_at;
            cursor.id := cursor.next_id;
        elsif cursor.settled then
            cursor.run_at := v_run_at;
            cursor.id := v_id;
        end if;

        cursor.next_run_at := v_run_at;
        cursor.next_id := v_id;
        cursor.next_xid := pg_current_xact_id();
        cursor.sure := own_id;
        cursor.noted_at := at;
    elsif looked and not cursor.sure and pg_current_xact_id() > cursor.next_xid then
        cursor.next_xid := pg_current_xact_id();
        cursor.sure := true;
    end if;

    if shared and rota._is_time_to_share(cursor.shared_at, at) then
        cursor.shared_at := at;
        perform rota._share_cursor(cursor);
    end if;

    perform set_config(rota._lane_setting(queue, priority), cursor::text, false);
end;
$$;

comment on function rota._note_scan is
    'Remember where the first job of a lane was found, if to find it was slow.';
