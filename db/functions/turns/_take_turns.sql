drop function if exists rota._take_turns(
    text, integer, timestamptz, integer, integer, boolean, text[]
);

-- The keys whose turn it is, the longest first, and of each as many jobs as it may have now, locked
-- as those of a claim's own scan are (claim_next_job). All of it is undone with the claim. What is
-- to follow is posted when the jobs run (_pass_turns), in the same transaction.
--
-- All turns of a key that can be had are taken, whose first place holds; a turn that somebody else
-- holds stays his. Where keys are limited their locks come between: who has a key's lock sees all
-- that was started under it before, since to let it go is to commit. A key whose lock another claim
-- has is left to it, and its turn stays. Of a turn that only says that there is room nothing more
-- is asked if no other of its key can be seen (_take_turn); in strict order it leads to the jobs
-- behind those turns, too, that somebody else holds (_head_of_key).
-- Lock order: turns, flow_locks, jobs, all skip locked: nothing is waited for.
create or replace function rota._take_turns(
    queue text,
    priority integer,
    at timestamptz,
    room integer,
    width integer,  -- how many turns to take
    limited integer,  -- queues.limited
    refused text[]
)
    returns rota.taken_turns
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_is_noted boolean := current_setting(rota._turns_setting(queue, priority), true) <> '';
    v_from timestamptz := '-infinity';
    v_began timestamptz;
    v_took interval;
    v_first timestamptz;
    v_keys text[];
    v_number integer;  -- of the keys, with those of which nothing waits for room
    v_taken rota.taken_turns := row(null, refused, null, null, null);
begin
    if v_is_noted then
        v_from := rota._turns_from(queue, priority, at);
    end if;

    v_began := clock_timestamp();
    select array_agg(p.key), min(p.ready_at) into v_keys, v_first
    from (
        select t.key, t.ready_at
        from rota.turns as t
        where t.queue = _take_turns.queue
            and t.priority = _take_turns.priority
            and t.ready_at >= v_from
            and t.ready_at <= at
            and t.ready_at < 'infinity'
            and t.key <> all(refused)
        order by t.ready_at
        limit width
        for update skip locked
    ) as p;
    v_took := clock_timestamp() - v_began;

    if v_from = '-infinity' and (v_is_noted or v_took > interval '250 us') then
        perform rota._note_turns(queue, priority, at, v_first, v_took, width);
    end if;

    if v_keys is null then
        return v_taken;
    end if;

    if limited & 2 > 0 then
        with locked as materialized (
            select f.number
            from rota.flow_locks as f
            where f.queue = _take_turns.queue
                and f.number = any(array(
                    select rota._flow_number(u.key) from unnest(v_keys) as u(key)
                ))
            for no key update skip locked
        )
        select
            array_agg(u.key) filter (where l.number is not null),
            refused || array_agg(u.key) filter (where l.number is null)
        into v_keys, v_taken.refused
        from unnest(v_keys) as u(key)
        left join locked as l on l.number = rota._flow_number(u.key);

        if v_keys is null then
            v_taken.turns := '{}';
            return v_taken;
        end if;
    end if;

    with gone as (
        delete from rota.turns as t
        where t.ctid = any(array(
            select u.ctid
            from unnest(v_keys) as k(key)
            cross join lateral (
                select o.ctid
                from rota.turns as o
                where o.queue = _take_turns.queue
                    and o.key = k.key
                    and o.priority = _take_turns.priority
                    and o.ready_at >= v_from
                for update skip locked
            ) as u
        ))
        returning t.key, t.from_run_at, t.from_id, t.passed
    )
    select array_agg(
        row(k.key, k.from_run_at, k.from_id, k.passed, null, null, null, null)::rota.key_turn
    ) filter (where k.from_run_at < 'infinity' or limited & 8 > 0), count(*)
    into v_taken.turns, v_number
    from (
        select distinct on (g.key) g.key, g.from_run_at, g.from_id, g.passed
        from gone as g
        order by g.key, g.from_run_at, g.from_id
    ) as k;

    if v_taken.turns is null then
        v_taken.turns := '{}';
        return v_taken;
    end if;

    if limited & 2 > 0 then
        v_taken.turns := rota._room_of_keys(queue, priority, v_taken.turns, at, v_from);
    end if;

    v_taken.share := greatest(1, room / v_number);

    select array_agg(p.place), bool_or(p.recurring) into v_taken.places, v_taken.recurring
    from unnest(v_taken.turns) as k
    cross join lateral (
        select j.ctid as place, j.schedule_type <> 'ONE_TIME' as recurring
        from rota.live_jobs as j
        where j.queue = _take_turns.queue
            and rota._lane(j.key, j.priority) = rota._lane(k.key, _take_turns.priority)
            and (j.counted and j.left_lane) is not true
            and (j.run_at, j.id) >= (
                coalesce(k.head_run_at, k.from_run_at), coalesce(k.head_id, k.from_id)
            )
            and j.run_at <= at
            and j.key = k.key
            and j.state = 'SCHEDULED'
            and (k.head_id is null or j.id = k.head_id)
        order by j.run_at, j.id
        limit least(v_taken.share, k.room)
        for no key update skip locked
    ) as p;

    return v_taken;
end;
$$;

comment on function rota._take_turns is
    'Take the turns of some keys, and lock the jobs that they may have now.';
