drop function if exists rota._nobody_sleeps(text);

-- A sleeper holds the shared form of advisory locks (_sleep_names); where the exclusive form can be
-- had nobody sleeps, and it is let go at once. A job that is not due within a second concerns only
-- those who sleep for longer: the others look before. Two producers that try at the same moment may
-- take each other for a sleeper: a needless notification, which is harmless.
create or replace function rota._nobody_sleeps(
    queue text,
    run_at timestamptz,
    at timestamptz
)
    returns boolean
    language sql
    volatile
as $$
    select case
        when run_at > at + interval '1 second' then case
            when pg_try_advisory_lock(rota._wake_class(), hashtext(','))
                then pg_advisory_unlock(rota._wake_class(), hashtext(','))
            else false
        end
        when not pg_try_advisory_lock(rota._wake_class(), hashtext(queue)) then false
        when not pg_advisory_unlock(rota._wake_class(), hashtext(queue)) then false
        when pg_try_advisory_lock(rota._wake_class(), hashtext(''))
            then pg_advisory_unlock(rota._wake_class(), hashtext(''))
        else false
    end
$$;

comment on function rota._nobody_sleeps is
    'Tell whether no worker waits for a notification of a job that is due at that time.';
