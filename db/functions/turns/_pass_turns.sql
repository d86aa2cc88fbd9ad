drop function if exists rota._pass_turns(text, integer, rota.taken_turns, timestamptz, tid);

-- What follows the turns that a claim has taken, when the jobs that it takes are RUNNING; or when
-- the only one of them is about to be (_take_turn): so the first of places is never one that is
-- left. For each key that has a job left, one that is ready when it is, behind those of other keys
-- that are ready now; or if there is no room left, when there will be. The first SCHEDULED job that
-- is seen decides, also one that is locked just now: so what was found and left, what settling a
-- schedule put off and what somebody else holds are not forgotten.
--
-- Where nothing is seen that is ready now, the turn goes, or is put off until something is, only
-- under the arrival lock (_post_turns), after a look that begins when it is held; else the key is
-- looked at again soon. The lock is also what allows the place to move on: without it, somebody who
-- relies on the turn may be about to commit a job before the one that is seen, and one that is due.
-- Of a key without room it is known when there is, whatever comes. Of one in strict order whose
-- first job somebody has locked it is not known. With a single key the lock is
-- tried only when that seems worth it, so that producers of busy keys meet it seldom.
create or replace function rota._pass_turns(
    queue text,
    priority integer,
    taken rota.taken_turns,
    at timestamptz
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_number integer := coalesce(cardinality(taken.places), 0);
    v_is_one boolean := cardinality(taken.turns) = 1;
    v_tries boolean := not v_is_one or v_number < taken.share or taken.turns[1].passed >= 100;
    v_got integer[];
begin
    loop
        if v_tries then
            v_got := array(
                select a.number
                from (
                    select distinct rota._arrival(queue, k.key) as number
                    from unnest(taken.turns) as k
                    offset 0
                ) as a
                where pg_try_advisory_xact_lock(rota._arrival_class(), a.number)
            );
        end if;

        insert into rota.turns (
            queue, priority, key, ready_at, is_full, from_run_at, from_id, passed
        )
        select
            _pass_turns.queue,
            _pass_turns.priority,
            k.key,
            case
                when w.waits then k.opens_at
                when n.run_at <= at and (v_number > 0 or k.head_id is null) then at
                when n.run_at <= at then at + interval '10 ms'
                when f.is_sure then n.run_at
                else at + interval '10 ms'
            end,
            w.waits,
            case when f.is_sure and n.id is not null then n.run_at else k.from_run_at end,
            case when f.is_sure and n.id is not null then n.id else k.from_id end,
            case when f.is_sure then 0 else k.passed + v_number end
        from unnest(taken.turns) as k
        cross join lateral (
            select
                coalesce(
                    k.room = 0 or v_is_one and k.room = v_number and k.opens_at is not null, false
                ) as is_full,
                rota._arrival(_pass_turns.queue, k.key) in (
                    select g.number from unnest(v_got) as g(number)
                ) as is_sure
        ) as f
        left join lateral (
            select j.run_at, j.id
            from rota.live_jobs as j
            where j.queue = _pass_turns.queue
                and rota._lane(j.key, j.priority) = rota._lane(k.key, _pass_turns.priority)
                and (j.counted and j.left_lane) is not true
                and (j.run_at, j.id) >= (k.from_run_at, k.from_id)
                and j.run_at < 'infinity'
                and j.key = k.key
                and j.state = 'SCHEDULED'
                and j.ctid is distinct from taken.places[1]
            order by j.run_at, j.id
            limit 1
        ) as n on true
        cross join lateral (
            select f.is_full and (not f.is_sure or n.run_at <= k.opens_at) as waits
        ) as w
        where n.run_at <= at
            or f.is_full and n.run_at <= k.opens_at
            or v_tries and (n.id is not null or not f.is_sure);

        exit when v_tries or found;
        v_tries := true;
    end loop;
end;
$$;

comment on function rota._pass_turns is
    'Post the turns that follow those which a claim has taken.';
