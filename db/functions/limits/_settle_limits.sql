drop function if exists rota._settle_limits(text);

-- What runs in a queue is counted from the first claim on that knows of a limit. A claim that began
-- before the limit was committed knows nothing of it, and what it started is not to be seen until
-- it commits. Until all such have ended, nothing starts that is limited: in a queue that has only
-- limits of keys, no job with a key.
--
-- Whom to wait for: every claim reads the lanes, and so holds a lock of that table until its
-- transaction ends; it has that lock before the snapshot in which it would see a limit. So whoever
-- has not seen this one has the lock, or has ended, when the first claim that sees it asks the
-- server. Those are noted, and nobody who comes later is waited for; then what runs is marked, if
-- that is what is limited. A transaction that is open for long for another reason, as a producer's,
-- is waited for, too.
--
-- The caller says which limits he knows of (queues.limited). He may have looked before the limit
-- was committed, and come here after it: then he is one of those to wait for, and cannot settle it.
-- Nor can the transaction that sets it, which sees it before all others: it notes its id for itself
-- (rota.sets_limits), until it ends or goes back behind that.
--
-- Chores call this, too, for queues of which no claim comes here: paused ones, and those without
-- jobs. Else the first job of a queue would wait for whoever is open then. Not at REPEATABLE READ,
-- where what runs by now cannot be seen.
--
-- The row is locked, and passed by if another claim has it. What somebody holds of the jobs is left
-- to the next call.
create or replace function rota._settle_limits(queue text, limited integer)
    returns boolean
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_settled boolean;
    v_open text[];
begin
    perform
    from rota.flow_locks as l
    where l.queue = _settle_limits.queue and l.number = -1 and l.settled;

    if found then
        return true;
    end if;

    select l.settled, l.open_before into v_settled, v_open
    from rota.flow_locks as l
    where l.queue = _settle_limits.queue and l.number = -1
    for no key update skip locked;

    if not found or v_settled then
        return coalesce(v_settled, false);
    end if;

    if current_setting('transaction_isolation') <> 'read committed'
        or current_setting('rota.sets_limits', true) = pg_current_xact_id_if_assigned()::text
        or not exists (
            select from rota.queues as q
            where q.name = _settle_limits.queue and q.limited = _settle_limits.limited
        )
    then
        return false;
    end if;

    if v_open is null or v_open <> '{}' then
        v_open := array(
            select o.virtualtransaction
            from rota._open_claims(v_open) as o
        );

        update rota.flow_locks as l
        set open_before = v_open
        where l.queue = _settle_limits.queue and l.number = -1
            and l.open_before is distinct from v_open;
    end if;

    if v_open <> '{}' then
        return false;
    end if;

    if limited between 1 and 15 then
        update rota.live_jobs as j
        set counted = true
        where j.ctid = any(array(
            select u.ctid
            from rota.live_jobs as u
            where u.queue = _settle_limits.queue
                and (u.counted and u.left_lane) is not true
                and u.state = 'RUNNING'
                and u.counted is null
            for no key update skip locked
        ));

        if exists (
            select from rota.live_jobs as j
            where j.queue = _settle_limits.queue
                and (j.counted and j.left_lane) is not true
                and j.state = 'RUNNING'
                and j.counted is null
        ) then
            return false;
        end if;
    end if;

    update rota.flow_locks as l
    set settled = true,
        open_before = null
    where l.queue = _settle_limits.queue and l.number = -1;

    return true;
end;
$$;

comment on function rota._settle_limits is
    'See to it that all that runs in a queue is counted; false as long as it cannot be known.';
