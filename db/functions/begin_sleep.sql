-- The session that calls this holds the shared advisory lock of each queue until end_sleep or its
-- own end, so a worker that dies in its sleep leaves nothing behind. Sorted, though shared locks
-- cannot deadlock among themselves and producers never wait for the exclusive form. Of no use
-- behind a pooler in transaction mode: such a worker lives by its poll alone.
create or replace function rota.begin_sleep(queues text[])
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_advisory_lock_shared(rota._wake_class(), hashtext(q.name))
    from (select distinct u.name from unnest(queues) as u(name) order by u.name) as q;
end;
$$;

comment on function rota.begin_sleep is
    'Ask producers of these queues to notify channel rota_jobs from now on; look once more, wait.';
