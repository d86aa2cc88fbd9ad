-- Nobody changes a row of cursors but maintain, of which there is one at a time. Those of lanes
-- that nobody claimed from for a day go like those that were given up; then the lane's mark goes,
-- but not soon after it came: an old snapshot keeps each version of the row, and every claim reads
-- it. A cursor that is shared just now may lose its mark; the next that is shared brings it back.
create or replace function rota._tidy_cursors(at timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    delete from rota.lane_cursors as c
    using (
        select n.queue, n.priority, max(n.shared_at) as shared_at
        from rota.lane_cursors as n
        where n.shared_at <= at
        group by n.queue, n.priority
    ) as newest
    where c.queue = newest.queue
        and c.priority = newest.priority
        and (
            c.shared_at < newest.shared_at
            or c.shared_at = newest.shared_at
                and (c.noted_at is null or c.shared_at < at - interval '1 day')
        );

    -- Of a clock that was put back: else each were the newest when its time comes.
    delete from rota.lane_cursors as c
    where c.shared_at > at + interval '1 minute';

    update rota.lanes as l
    set cursor_since = null
    where l.ctid = any(array(
        select u.ctid
        from rota.lanes as u
        where u.cursor_since < at - interval '10 minutes'
            and not exists (
                select from rota.lane_cursors as c
                where c.queue = u.queue and c.priority = u.priority
            )
        for no key update skip locked
    ));
end;
$$;

comment on function rota._tidy_cursors is
    'Remove shared cursors that nobody reads, and the marks of lanes that have none any more.';
