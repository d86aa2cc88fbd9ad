-- In strict order one job of a key has begun and not ended, its head, through retries and backoff;
-- while there is one nothing else may start. There are several only if they ran already when the
-- order was asked for; then the head is whose time was first, however long its backoff is. Else
-- only the first that is seen may: if somebody has it locked, as one who cancels it and may think
-- better of it, it is not passed by. It may lie behind a turn that a claim holds which was refused
-- the key's lock: so the look for it begins at the first place of all turns that are seen. What
-- another claim has taken under the lock is not seen.
create or replace function rota._head_of_key(
    queue text,
    key text,
    turn_priority integer,
    inout from_run_at timestamptz,
    inout from_id bigint,
    at timestamptz,
    turns_from timestamptz,
    out run_at timestamptz,
    out id bigint,
    out priority integer
)
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_first rota.key_turn;
begin
    select t.from_run_at, t.from_id into v_first.from_run_at, v_first.from_id
    from rota.turns as t
    where t.queue = _head_of_key.queue
        and t.key = _head_of_key.key
        and t.priority = turn_priority
        and t.ready_at >= turns_from
        and (t.from_run_at, t.from_id) < (_head_of_key.from_run_at, _head_of_key.from_id)
    order by t.from_run_at, t.from_id
    limit 1;

    if found then
        from_run_at := v_first.from_run_at;
        from_id := v_first.from_id;
    end if;

    select j.run_at, j.id, j.priority into run_at, id, priority
    from rota.live_jobs as j
    where j.queue = _head_of_key.queue
        and j.key = _head_of_key.key
        and j.counted
        and j.state = 'SCHEDULED'
    order by j.scheduled_for, j.id
    limit 1;

    if found then
        return;
    end if;

    select j.run_at, j.id, turn_priority into run_at, id, priority
    from rota.live_jobs as j
    where j.queue = _head_of_key.queue
        and rota._lane(j.key, j.priority) = rota._lane(_head_of_key.key, turn_priority)
        and (j.counted and j.left_lane) is not true
        and (j.run_at, j.id) >= (_head_of_key.from_run_at, _head_of_key.from_id)
        and j.run_at <= at
        and j.key = _head_of_key.key
        and j.state = 'SCHEDULED'
    order by j.run_at, j.id
    limit 1;
end;
$$;

comment on function rota._head_of_key is
    'Find the one job of a key in strict order that may start, and from where it was looked for.';
