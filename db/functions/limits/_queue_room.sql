drop function if exists rota._queue_room(text, timestamptz, integer);

-- Asked before a lane of a queue is looked at that has limits as a whole. Claims of it exclude each
-- other until they have committed, and the count is a statement of its own, after the lock: it sees
-- all that was started before. Where another claim has the lock, it is waited for, 10 ms at most:
-- those who come back empty would have to come again, and again. That is the only wait of a claim.
-- Nothing starts while a limit is new, which may be said of it in the meantime, too.
--
-- What time it is, is asked under the lock: the claim may have waited for long since it began, and
-- what others started meanwhile must not seem to lie ahead (_starts_left).
create or replace function rota._queue_room(queue text, limited integer)
    returns integer
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_queue rota.queues;
    v_flow rota.flows;
    v_room integer;
    v_now timestamptz;
begin
    for v_look in 1..10 loop
        perform
        from rota.flow_locks as l
        where l.queue = _queue_room.queue and l.number = -1 and l.settled
        for no key update skip locked;

        exit when found;

        if v_look = 10 or not rota._settle_limits(queue, limited) then
            return 0;
        end if;

        perform pg_sleep(0.001);
    end loop;

    select q.* into v_queue
    from rota.queues as q
    where q.name = _queue_room.queue;

    if v_queue.max_running is not null then
        select greatest(0, v_queue.max_running - count(*)) into v_room
        from rota.live_jobs as j
        where j.queue = _queue_room.queue and j.counted and j.state = 'RUNNING';
    end if;

    if v_queue.max_starts is not null then
        v_now := rota._now();

        select f.* into v_flow
        from rota.flows as f
        where f.queue = _queue_room.queue and f.key = '';

        select least(v_room, s.number) into v_room
        from rota._starts_left(
            v_queue.max_starts, v_queue.starts_period, v_flow.cells, v_flow.starts, v_now
        ) as s;
    end if;

    return v_room;
end;
$$;

comment on function rota._queue_room is
    'Say how many jobs of a queue with limits of its own may start now.';
