-- What was found to be first, or the present if nothing was, becomes the next place; the cursor
-- itself moves to the one before, once that is settled: all transactions that were open then have
-- ended. Their ids are below our own, which a snapshot's xmax need not be, provided that ours was
-- taken after the scan's snapshot (own_id). Else the id of our next transaction is waited for.
-- Where nobody looked (looked), for lack of room, nothing was found out. A lane whose scan took no
-- time (not slow) gets no cursor, and one that was given up is forgotten.
-- The text that is kept must be readable whatever the session's styles are by then: ISO always is.
drop function if exists rota._move_lane_cursor(rota.lane_cursor, tid, timestamptz, interval);
drop function if exists rota._move_lane_cursor(
    rota.lane_place, tid, timestamptz, interval, boolean
);

create or replace function rota._move_lane_cursor(
    cursor rota.lane_scan,
    first_job tid,
    at timestamptz,
    own_id boolean,
    slow boolean,
    looked boolean
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
    set datestyle = 'ISO, YMD'
    set intervalstyle = 'postgres'
as $$
declare
    v_setting text := rota._lane_setting(cursor.queue, cursor.priority);
    v_run_at timestamptz;
    v_id bigint;
begin
    if cursor.noted_at is null and not slow then
        perform set_config(v_setting, '', false);
        return;
    end if;

    if cursor.noted_at is null then
        cursor.swept_at := at;
    end if;

    if looked and (cursor.noted_at is null or cursor.settled) then
        select j.run_at, j.id into v_run_at, v_id
        from rota.live_jobs as j
        where j.ctid = first_job;

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

    perform set_config(v_setting, cursor::text, false);
end;
$$;

comment on function rota._move_lane_cursor is
    'Remember where the first job of a lane was found, and how far this session has looked behind.';
