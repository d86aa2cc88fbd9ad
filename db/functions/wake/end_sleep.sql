-- Must get the arguments for which begin_sleep answered true; it unlocks in the same session. A
-- lock that is left because a wall was built meanwhile costs producers some needless calls.
drop function if exists rota.end_sleep(text[]);

create or replace function rota.end_sleep(
    queues text[],
    longest interval default '1 second'
)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform from rota.queue_walls;

    if found then
        queues := rota._within_walls(queues);
    end if;

    perform pg_advisory_unlock_shared(rota._wake_class(), hashtext(n.name))
    from rota._sleep_names(queues, longest) as n(name);
end;
$$;

comment on function rota.end_sleep is
    'Tell producers of these queues that this session no longer waits for their notifications.';
