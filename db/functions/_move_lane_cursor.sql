-- A cursor keeps its expiry when it is moved along, so a full scan comes when it was due. The
-- position after a scan that found nothing is the present: whatever is enqueued from now on lies
-- behind it.
create or replace function rota._move_lane_cursor(
    cursor rota.lane_cursor,
    first_job tid,
    at timestamptz,
    took interval
)
    returns void
    language plpgsql
    volatile
    set search_path = ''
as $$
begin
    if cursor.expires_at is null then
        cursor.made_at := at;
        cursor.expires_at := at + least(took * 100, interval '1 minute');
    end if;

    select j.run_at, j.id into cursor.run_at, cursor.id
    from rota.live_jobs as j
    where j.ctid = first_job;

    if not found then
        cursor.run_at := at;
        cursor.id := 0;
    end if;

    perform set_config(
        rota._lane_setting(cursor.queue, cursor.priority),
        cursor::text,
        false
    );
end;
$$;

comment on function rota._move_lane_cursor is
    'Remember for a short while where the first job of a lane was found.';
