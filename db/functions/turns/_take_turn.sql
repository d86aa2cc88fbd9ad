-- The short way for a claim of one job, which most claims are: the first turn, and the first job of
-- its key; as _take_turns, without its sets. Whatever is not plain is left to that function: a key
-- that is refused or has no room, or whose window this start would shut, no job, or a schedule. A
-- turn that only says that there is room leads to the key's first other one, and goes if that leads
-- to a job; if not, the job may be behind another. What was locked here is ours there, too. Of a
-- key's turns only one is taken, so each tenth time that function has its turn, which takes them
-- all; and where another one leads to earlier jobs: those of a key that were to run later have a
-- turn of their own, if they came first.
--
-- places is null where _take_turns is to be asked, and passed is -1 where it is no key's turn.
-- Lock order: the turn, the row of flow_locks, the job, all skip locked.
create or replace function rota._take_turn(
    queue text,
    priority integer,
    at timestamptz,
    limited boolean
)
    returns rota.taken_turn
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_turn rota.taken_turn;
    v_is_noted boolean := current_setting(rota._turns_setting(queue, priority), true) <> '';
    v_from timestamptz := '-infinity';
    v_began timestamptz;
    v_took interval;
    v_ready_at timestamptz;
    v_now timestamptz;
    v_shuts boolean;  -- the key's window, with this start or before
    v_offer tid;  -- a turn that only says that there is room
    v_recurring boolean;
begin
    if v_is_noted then
        v_from := rota._turns_from(queue, priority, at);
    end if;

    v_began := clock_timestamp();
    select t.ctid, t.key, t.from_run_at, t.from_id, t.passed, t.ready_at
    into v_turn.turn, v_turn.key, v_turn.from_run_at, v_turn.from_id, v_turn.passed, v_ready_at
    from rota.turns as t
    where t.queue = _take_turn.queue
        and t.priority = _take_turn.priority
        and t.ready_at >= v_from
        and t.ready_at <= at
        and t.ready_at < 'infinity'
    order by t.ready_at
    limit 1
    for update skip locked;
    v_took := clock_timestamp() - v_began;

    if v_from = '-infinity' and (v_is_noted or v_took > interval '250 us') then
        perform rota._note_turns(queue, priority, at, v_ready_at, v_took, 1);
    end if;

    if v_turn.turn is null then
        v_turn.passed := -1;
        return v_turn;
    end if;

    if limited then
        perform
        from rota.flow_locks as l
        where l.queue = _take_turn.queue and l.number = rota._flow_number(v_turn.key)
        for no key update skip locked;

        if not found then
            return v_turn;
        end if;

        if v_turn.from_run_at = 'infinity' then
            v_offer := v_turn.turn;

            select t.ctid, t.from_run_at, t.from_id, t.passed
            into v_turn.turn, v_turn.from_run_at, v_turn.from_id, v_turn.passed
            from rota.turns as t
            where t.queue = _take_turn.queue
                and t.key = v_turn.key
                and t.priority = _take_turn.priority
                and t.ready_at >= v_from
                and t.from_run_at < 'infinity'
            order by t.ready_at
            limit 1
            for update skip locked;

            if not found then
                return v_turn;
            end if;
        end if;

        v_now := rota._now();

        select case
            when e.settled is not true then 0
            else coalesce(f.max_running, q.key_max_running) - (
                select count(*)
                from rota.live_jobs as j
                where j.queue = _take_turn.queue
                    and j.key = v_turn.key
                    and j.counted
                    and j.state = 'RUNNING'
            )
        end,
        case when coalesce(f.max_starts, q.key_max_starts) is not null then (
            select s.number < 2
            from rota._starts_left(
                coalesce(f.max_starts, q.key_max_starts),
                coalesce(f.starts_period, q.key_starts_period), f.cells, f.starts, v_now
            ) as s
        ) end
        into v_turn.room, v_shuts
        from rota.queues as q
        left join rota.flow_locks as e on e.queue = q.name and e.number = -1
        left join rota.flows as f on f.queue = q.name and f.key = v_turn.key
        where q.name = _take_turn.queue;
    end if;

    select array[j.ctid], j.schedule_type <> 'ONE_TIME' into v_turn.places, v_recurring
    from rota.live_jobs as j
    where j.queue = _take_turn.queue
        and rota._lane(j.key, j.priority) = rota._lane(v_turn.key, _take_turn.priority)
        and (j.run_at, j.id) >= (v_turn.from_run_at, v_turn.from_id)
        and j.run_at <= at
        and j.key = v_turn.key
        and j.state = 'SCHEDULED'
        and v_turn.passed % 10 < 9
        and coalesce(v_turn.room > 0, true)
        and v_shuts is not true
        and not exists (
            select
            from rota.turns as t
            where t.queue = _take_turn.queue
                and t.key = v_turn.key
                and t.priority = _take_turn.priority
                and t.ready_at >= v_ready_at
                and (t.from_run_at, t.from_id) < (v_turn.from_run_at, v_turn.from_id)
        )
    order by j.run_at, j.id
    limit 1
    for no key update skip locked;

    if v_recurring then
        v_turn.places := null;
    elsif v_offer is not null and found then
        delete from rota.turns as t
        where t.ctid = v_offer;
    end if;

    return v_turn;
end;
$$;

comment on function rota._take_turn is
    'Take the first turn, and lock the one job that it leads to.';
