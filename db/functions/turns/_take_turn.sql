drop function if exists rota._take_turn(text, integer, timestamptz, boolean);

-- The short way for a claim of one job, which most claims are: the first turn, and the first job of
-- its key; as _take_turns, without its sets. Whatever is not plain is left to that function: a key
-- that is refused or has no room, or whose window this start would shut, no job, or a schedule.
-- Then the turn is put back, before those that were as long ready, so that it is the one that is
-- taken there; what was locked here is ours there, too. Of a key's turns only one is taken, so each
-- tenth time that function has its turn, which takes them all; and where another one leads to
-- earlier jobs: those of a key that were to run later have a turn of their own, if they came first.
--
-- A turn that only says that there is room leads to the key's first other one; both stay if that
-- leads nowhere, since the job may be behind another. If there is none to be seen it just goes:
-- nothing of the key waits for room, since who finds it full holds its lock until he commits. Each
-- leaves a lock that hides its key from others, so after fifty the claim has to come again.
--
-- What follows is posted at once, though the job does not run yet: the same turn, behind those of
-- other keys, if another job is due; or one that waits for room, if this one takes the last. Many
-- keys have one job at a time: then nothing follows, if the arrival lock was held before it was
-- looked for (_post_turns). Of keys of which more was taken it is not even tried, so that producers
-- of busy keys meet it seldom. All else is for _pass_turns.
--
-- Null where _take_turns is to be asked, and empty where it is no key's turn.
-- Lock order: the turn, the row of flow_locks, the job, all skip locked.
create or replace function rota._take_turn(
    queue text,
    priority integer,
    at timestamptz,
    limited integer  -- queues.limited
)
    returns tid[]
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_from timestamptz := case
        when current_setting(rota._turns_setting(queue, priority), true) <> ''
            then rota._turns_from(queue, priority, at)
    end;
    v_began timestamptz;
    v_key text;
    v_ready_at timestamptz;
    v_run_at timestamptz;  -- the place from which on the turn leads to jobs
    v_id bigint;
    v_passed integer;
    v_other tid;  -- the turn that one leads to which only says that there is room
    v_dropped integer;  -- of those, because they lead to none
    v_room integer;
    v_now timestamptz;
    v_stays_open boolean;  -- the key's window, also after this start
    v_lane bigint;
    v_is_sure boolean;
    v_places tid[];
    v_is_plain boolean;
    v_next_run_at timestamptz;
begin
    loop
        v_began := clock_timestamp();

        delete from rota.turns as t
        where t.ctid = (
            select u.ctid
            from rota.turns as u
            where u.queue = _take_turn.queue
                and u.priority = _take_turn.priority
                and u.ready_at >= coalesce(v_from, '-infinity')
                and u.ready_at <= at
                and u.ready_at < 'infinity'
            order by u.ready_at
            limit 1
            for update skip locked
        )
        returning t.key, t.ready_at, t.from_run_at, t.from_id, t.passed
        into v_key, v_ready_at, v_run_at, v_id, v_passed;

        if coalesce(v_from = '-infinity', clock_timestamp() - v_began > interval '250 us') then
            perform rota._note_turns(
                queue, priority, at, v_ready_at, clock_timestamp() - v_began, 1
            );
            v_from := rota._turns_from(queue, priority, at);
        end if;

        if v_key is null then
            return '{}';
        end if;

        exit when coalesce(limited & 2 = 0, true);

        perform
        from rota.flow_locks as l
        where l.queue = _take_turn.queue and l.number = rota._flow_number(v_key)
        for no key update skip locked;

        if not found then
            v_room := 0;
            exit;
        end if;

        exit when v_run_at < 'infinity';

        select t.ctid, t.from_run_at, t.from_id, t.passed
        into v_other, v_run_at, v_id, v_passed
        from rota.turns as t
        where t.queue = _take_turn.queue
            and t.key = v_key
            and t.priority = _take_turn.priority
            and t.ready_at >= coalesce(v_from, '-infinity')
            and t.from_run_at < 'infinity'
        order by t.ready_at
        limit 1
        for update skip locked;

        exit when found;

        v_dropped := coalesce(v_dropped, 0) + 1;

        if v_dropped = 50 then
            return '{}';
        end if;
    end loop;

    if limited & 2 > 0 and v_room is null then
        if limited & 16 = 0 then
            select case
                when e.settled is not true then 0
                else coalesce(f.max_running, q.key_max_running) - (
                    select count(*)
                    from rota.live_jobs as j
                    where j.queue = _take_turn.queue
                        and j.key = v_key
                        and j.counted
                        and j.state = 'RUNNING'
                )
            end
            into v_room
            from rota.queues as q
            left join rota.flow_locks as e on e.queue = q.name and e.number = -1
            left join rota.flows as f on f.queue = q.name and f.key = v_key
            where q.name = _take_turn.queue;
        end if;

        if limited & 4 > 0 then
            v_now := rota._now();
            select
                e.settled is true
                and (s.number > 1 or coalesce(f.max_starts, q.key_max_starts) is null)
            into v_stays_open
            from rota.queues as q
            left join rota.flow_locks as e on e.queue = q.name and e.number = -1
            left join rota.flows as f on f.queue = q.name and f.key = v_key
            cross join lateral rota._starts_left(
                coalesce(f.max_starts, q.key_max_starts),
                coalesce(f.starts_period, q.key_starts_period), f.cells, f.starts, v_now
            ) as s
            where q.name = _take_turn.queue;

            if not v_stays_open then
                v_room := 0;
            end if;
        end if;
    end if;

    if coalesce(v_room > 0, true) and v_passed % 10 < 9 then
        v_lane := rota._lane(v_key, priority);
        v_is_sure := v_passed = 0
            and pg_try_advisory_xact_lock(
                rota._arrival_class(), rota._arrival(queue, v_key)
            );

        select
            array[j.ctid],
            j.schedule_type = 'ONE_TIME'
            and not exists (
                select
                from rota.turns as t
                where t.queue = _take_turn.queue
                    and t.key = v_key
                    and t.priority = _take_turn.priority
                    and t.ready_at >= v_ready_at
                    and (t.from_run_at, t.from_id) < (v_run_at, v_id)
            ),
            (
                select o.run_at
                from rota.live_jobs as o
                where o.queue = _take_turn.queue
                    and rota._lane(o.key, o.priority) = v_lane
                    and (o.counted and o.left_lane) is not true
                    and (o.run_at, o.id) >= (v_run_at, v_id)
                    and o.run_at < 'infinity'
                    and o.key = v_key
                    and o.state = 'SCHEDULED'
                    and o.id <> j.id
                order by o.run_at, o.id
                limit 1
            )
        into v_places, v_is_plain, v_next_run_at
        from rota.live_jobs as j
        where j.queue = _take_turn.queue
            and rota._lane(j.key, j.priority) = v_lane
            and (j.counted and j.left_lane) is not true
            and (j.run_at, j.id) >= (v_run_at, v_id)
            and j.run_at <= at
            and j.key = v_key
            and j.state = 'SCHEDULED'
        order by j.run_at, j.id
        limit 1
        for no key update skip locked;
    end if;

    if v_is_plain is not true then
        insert into rota.turns (queue, priority, key, ready_at, from_run_at, from_id, passed)
        values (
            queue, priority, v_key, v_ready_at - interval '1 microsecond',
            case when v_other is null then v_run_at else 'infinity' end,
            case when v_other is null then v_id else 0 end,
            case when v_other is null then v_passed else 0 end
        );

        return null;
    end if;

    if v_other is not null then
        delete from rota.turns as t
        where t.ctid = v_other;
    end if;

    if v_next_run_at <= at then
        insert into rota.turns (
            queue, priority, key, ready_at, is_full, from_run_at, from_id, passed
        )
        values (
            queue, priority, v_key,
            case v_room when 1 then at + interval '1 minute' else at end,
            coalesce(v_room = 1, false),
            v_run_at, v_id, v_passed + 1
        );
    elsif not v_is_sure or v_next_run_at is not null then
        perform rota._pass_turns(
            queue,
            priority,
            row(
                array[row(
                    v_key, v_run_at, v_id, v_passed, v_room,
                    at + interval '1 minute', null, null
                )::rota.key_turn],
                null, 1, v_places, false
            )::rota.taken_turns,
            at
        );
    end if;

    return v_places;
end;
$$;

comment on function rota._take_turn is
    'Take the first turn, lock the one job that it leads to, and post the turn that follows.';
