-- Of keys whose locks the caller holds (_take_turns). A statement of its own, whose snapshot is
-- younger than the locks: it sees all that was started under them, and what has not ended by a
-- commit counts still. What runs is counted, there is no counter: the entry of live_jobs_counted is
-- what takes the room, so it goes with the row, and cannot leak.
--
-- In strict order only the head of the key may start (_head_of_key), and nothing while one runs.
--
-- That all that runs is counted (settled) is asked once more here: since it was asked before,
-- limits may have been taken away and set again, which waits for who has the key's lock. Then the
-- key is looked at again soon.
--
-- What time it is for windows, is asked under the locks, as in _queue_room.
--
-- Who finds no room is told by a turn when there is (_offer_room); a minute is for limits that were
-- changed meanwhile, and for a head that was put off and is brought forward: of a schedule that is
-- paused the time to run is infinite.
create or replace function rota._room_of_keys(
    queue text,
    priority integer,
    turns rota.key_turn[],
    at timestamptz,
    turns_from timestamptz
)
    returns rota.key_turn[]
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now constant timestamptz := rota._now();
begin
    return (
        select array_agg(row(
            k.key,
            coalesce(h.from_run_at, k.from_run_at),
            coalesce(h.from_id, k.from_id),
            k.passed,
            r.room,
            case
                when e.settled is not true then at + interval '1 second'
                when r.room = 0 and s.number = 0 then s.opens_at
                when r.room = 0 and c.running = 0 and h.priority = _room_of_keys.priority
                    then least(h.run_at, at + interval '1 minute')
                when s.number is null or r.room < s.number then at + interval '1 minute'
            end,
            case when r.room > 0 then h.run_at end,
            case when r.room > 0 then h.id end
        )::rota.key_turn)
        from unnest(turns) as k
        join rota.queues as q on q.name = _room_of_keys.queue
        left join rota.flow_locks as e on e.queue = q.name and e.number = -1
        left join rota.flows as f on f.queue = _room_of_keys.queue and f.key = k.key
        cross join lateral (
            select
                coalesce(f.max_running, q.key_max_running) as max_running,
                coalesce(f.max_starts, q.key_max_starts) as max_starts,
                coalesce(f.starts_period, q.key_starts_period) as starts_period
        ) as l
        cross join lateral (
            select count(*)::integer as running
            from rota.live_jobs as j
            where j.queue = _room_of_keys.queue
                and j.key = k.key
                and j.counted
                and j.state = 'RUNNING'
        ) as c
        left join lateral (
            select n.*
            from rota._head_of_key(
                _room_of_keys.queue, k.key, _room_of_keys.priority, k.from_run_at, k.from_id, at,
                turns_from
            ) as n
            where q.key_in_order
            offset 0 -- so that nothing is called for keys in any order
        ) as h on true
        left join lateral (
            select s.*
            from rota._starts_left(l.max_starts, l.starts_period, f.cells, f.starts, v_now) as s
            where l.max_starts is not null
            offset 0 -- so that nothing is called for keys without windows
        ) as s on true
        cross join lateral (
            select least(
                case when e.settled is not true then 0 end,
                s.number,
                case when l.max_running is not null
                    then greatest(0, l.max_running - c.running)
                end,
                case when q.key_in_order then
                    case
                        when c.running > 0 then 0
                        when h.id is null then 1
                        when h.priority = _room_of_keys.priority and h.run_at <= at then 1
                        else 0
                    end
                end
            ) as room
        ) as r
    );
end;
$$;

comment on function rota._room_of_keys is
    'Say of keys that are limited how many of their jobs may start now.';
