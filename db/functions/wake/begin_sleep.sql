-- The session that calls this holds shared advisory locks (_sleep_names) until end_sleep or its own
-- end, so a worker that dies in its sleep leaves nothing behind. They are tried for and never
-- waited for: producers let theirs go at once, but any login may take the exclusive form and keep
-- it. Then this session holds none of them, is told so, and lives by its poll: such a lock costs
-- speed, nothing else. Of no use behind a pooler in transaction mode either. For a queue behind a
-- wall of the caller nothing is tried, since that might tell of a producer there.
drop function if exists rota.begin_sleep(text[]);

create or replace function rota.begin_sleep(
    queues text[],
    longest interval default '1 second'
)
    returns boolean
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_name text;
    v_held text[] := '{}';
begin
    perform from rota.queue_walls;

    if found then
        queues := rota._within_walls(queues);
    end if;

    for v_name in
        select n.name
        from rota._sleep_names(queues, longest) as n(name)
    loop
        if not pg_try_advisory_lock_shared(rota._wake_class(), hashtext(v_name)) then
            perform pg_advisory_unlock_shared(rota._wake_class(), hashtext(h.name))
            from unnest(v_held) as h(name);
            return false;
        end if;

        v_held := v_held || v_name;
    end loop;

    return true;
end;
$$;

comment on function rota.begin_sleep is
    'Ask producers of these queues to notify channel rota_jobs from now on; look once more, wait.';
