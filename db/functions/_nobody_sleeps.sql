-- A sleeper holds the shared form of the queue's advisory lock (begin_sleep); if the exclusive form
-- can be had, nobody sleeps, and it is let go at once. Two producers that try at the same moment
-- may take each other for a sleeper: a needless notification, which is harmless. Without settings
-- of its own, so that the planner puts it in the place of its call.
create or replace function rota._nobody_sleeps(queue text)
    returns boolean
    language sql
    volatile
as $$
    select case
        when pg_try_advisory_lock(rota._wake_class(), hashtext(queue))
            then pg_advisory_unlock(rota._wake_class(), hashtext(queue))
        else false
    end
$$;

comment on function rota._nobody_sleeps is
    'Tell whether no worker of a queue waits for a notification.';
