-- NOTIFY takes a lock that is one for the whole server and holds it until the commit is on disk,
-- so it is sent only when somebody sleeps. A sleeper holds the shared form of the queue's
-- advisory lock (begin_sleep); if the exclusive form can be had, nobody sleeps, and it is let go
-- at once. Two producers that try at the same moment may take each other for a sleeper: a
-- needless notification, which is harmless. A worker that falls asleep between this look and our
-- commit finds the job by the quick looks that follow its falling asleep, or by its poll.
create or replace function rota._wake(queue text)
    returns void
    language plpgsql
    volatile
    set search_path = ''
as $$
begin
    if pg_try_advisory_lock(rota._wake_class(), hashtext(queue)) then
        perform pg_advisory_unlock(rota._wake_class(), hashtext(queue));
    else
        perform pg_notify('rota_jobs', queue);
    end if;
end;
$$;

comment on function rota._wake is
    'Notify the workers of a queue, if one sleeps.';
