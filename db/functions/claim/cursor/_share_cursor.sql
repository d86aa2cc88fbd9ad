-- The row belongs to the transaction: a claim that rolls back takes it back. Nothing is waited for:
-- it is a new row, and the rows of the lane, of which there may be copies, are passed by when
-- locked; then another claim marks them.
-- Where our own id was taken too early to be waited for (_note_scan), another session's next id
-- says nothing: to others the place is settled by time.
create or replace function rota._share_cursor(cursor rota.lane_cursors)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    if not cursor.sure then
        cursor.next_xid := null;
    end if;

    insert into rota.lane_cursors
    select cursor.*;

    update rota.lanes as l
    set cursor_since = cursor.shared_at
    where l.ctid = any(array(
        select u.ctid
        from rota.lanes as u
        where u.queue = cursor.queue
            and u.priority = cursor.priority
            and u.cursor_since is null
        for no key update skip locked
    ));
end;
$$;

comment on function rota._share_cursor is
    'Let the other sessions know of a cursor of a lane.';
