-- Must name the queues that begin_sleep named; it unlocks in the same session.
create or replace function rota.end_sleep(queues text[])
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_advisory_unlock_shared(rota._wake_class(), hashtext(q.name))
    from (select distinct u.name from unnest(queues) as u(name)) as q;
end;
$$;

comment on function rota.end_sleep is
    'Tell producers of these queues that this session no longer waits for their notifications.';
