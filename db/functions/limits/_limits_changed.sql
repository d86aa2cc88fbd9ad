-- The caller holds the row of the queue, and has written its limits or those of a key. What starts
-- from the commit on is counted, and where there is a kind of limit that was not there before,
-- claims that are under way are waited for first (_settle_limits): they have not taken its lock. To
-- change a number is no such change. Keys that wait for room are looked at again: those, too, that
-- a claim has just found full under the limits of before, for we wait for it.
--
-- queues.limited says which limits there are, for claims, as a sum: 1 for the queue, 2 for its
-- keys, 4 where starts are limited, of either, 8 for strict order; 16 where starts are, and nothing
-- else. Then nothing depends on what runs, so a job that starts is not marked as counted, and its
-- claim changes no index. From 1 to 15 it is marked.
--
-- What has started has started by now: so the last cell of a window ends now. By a shorter period
-- it may lie so far ahead that it would be taken for one of a clock that was put back
-- (_starts_left).
--
-- Lock order: the queue's row, then those of flow_locks by number. Claims hold these for as long as
-- their transactions are open, and wait for nothing.
create or replace function rota._limits_changed(queue text, is_new boolean)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_limited integer;
    v_now timestamptz;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'limits can be set at READ COMMITTED only, not at %',
            upper(current_setting('transaction_isolation') collate "C")
            using errcode = 'RTC04',
                  hint = 'At higher levels what has started and waits by now is not seen.';
    end if;

    update rota.queues as q
    set limited = case when num_nonnulls(q.max_running, q.max_starts) > 0 then 1 else 0 end
        + case
            when num_nonnulls(q.key_max_running, q.key_max_starts) > 0
                or q.key_in_order
                or k.max_running is not null
                or k.max_starts is not null
                then 2
            else 0
        end
        + case
            when num_nonnulls(q.max_starts, q.key_max_starts, k.max_starts) = 0 then 0
            when num_nonnulls(q.max_running, q.key_max_running, k.max_running) > 0
                or q.key_in_order
                then 4
            else 4 + 16
        end
        + case when q.key_in_order then 8 else 0 end
    from (
        select max(f.max_running) as max_running, max(f.max_starts) as max_starts
        from rota.flows as f
        where f.queue = _limits_changed.queue
            and num_nonnulls(f.max_running, f.max_starts) > 0
    ) as k
    where q.name = _limits_changed.queue
    returning q.limited into v_limited;

    if v_limited > 0 then
        insert into rota.flow_locks (queue, number)
        select _limits_changed.queue, n.number
        from generate_series(-1, 1023) as n(number)
        where not exists (
            select from rota.flow_locks as l
            where l.queue = _limits_changed.queue and l.number = -1
        )
        on conflict do nothing;
    end if;

    perform
    from rota.flow_locks as l
    where l.queue = _limits_changed.queue
    order by l.number
    for no key update;

    v_now := rota._now();

    update rota.flows as f
    set cells = array(
        select least(c.ends_at, v_now)
        from unnest(f.cells) with ordinality as c(ends_at, place)
        order by c.place
    )
    where f.queue = _limits_changed.queue and f.cells[cardinality(f.cells)] > v_now;

    if is_new then
        perform set_config('rota.sets_limits', pg_current_xact_id()::text, true);

        update rota.flow_locks as l
        set settled = false,
            open_before = null
        where l.queue = _limits_changed.queue and l.number = -1;
    end if;

    update rota.turns as t
    set is_full = false,
        ready_at = v_now
    where t.ctid = any(array(
        select u.ctid
        from rota.turns as u
        where u.queue = _limits_changed.queue and u.is_full
        for update skip locked
    ));

    perform rota._wake(queue, v_now, v_now);
end;
$$;

comment on function rota._limits_changed is
    'Let claims know of new limits of a queue or of a key in it.';
