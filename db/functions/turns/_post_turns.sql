drop function if exists rota._post_turns(
    text[], integer[], text[], timestamptz[], bigint[]
);

-- Called for the first SCHEDULED job of each key that a statement has written (_watch_jobs). A turn
-- is posted, unless one is there that leads to the job in time: one that is ready by then, or waits
-- for room, and covers the job's place.
--
-- Why none is lost. Who relies on a turn holds the arrival lock of its key, shared, until he has
-- committed. A claim that removes the last turn of a key gets that lock exclusively first, and then
-- looks once more, in a new snapshot: it sees the job, or could not get the lock and leaves a turn.
-- Neither waits for the other; who does not get the lock posts a turn. The look for a turn is a
-- statement of its own, after the lock: its snapshot must not be older. At REPEATABLE READ and
-- above it is, so a turn is always posted there.
--
-- For the job with which a key in strict order has begun one is always posted: on that job's time
-- the others wait, and the time may be moved forward (an event comes, a schedule is triggered). A
-- claim that looks at it as it was may be about to leave the key until then.
--
-- A turn that has been ready for a minute and was not taken is not looked for: while an old
-- snapshot pins turns that are gone, only those of the last minute are passed.
create or replace function rota._post_turns(
    queues text[],
    priorities integer[],
    keys text[],
    run_ats timestamptz[],
    ids bigint[],
    begun boolean[]
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_got boolean[];
begin
    if current_setting('transaction_isolation') = 'read committed' then
        v_got := array(
            select pg_try_advisory_xact_lock_shared(
                rota._arrival_class(), rota._arrival(k.queue, k.key)
            )
            from unnest(queues, keys) as k(queue, key)
        );
    end if;

    insert into rota.turns (queue, priority, key, ready_at, from_run_at, from_id)
    select k.queue, k.priority, k.key, greatest(k.run_at, v_now), k.run_at, k.id
    from unnest(queues, priorities, keys, run_ats, ids, begun, v_got)
        as k(queue, priority, key, run_at, id, begun, got)
    where k.got is not true
        or k.begun
        or not exists (
            select
            from rota.turns as t
            where t.queue = k.queue
                and t.key = k.key
                and t.priority = k.priority
                and t.ready_at > v_now - interval '1 minute'
                and (t.is_full or t.ready_at <= greatest(k.run_at, v_now))
                and (t.from_run_at, t.from_id) <= (k.run_at, k.id)
        );
end;
$$;

comment on function rota._post_turns is
    'See to it that claims come to these jobs with keys.';
