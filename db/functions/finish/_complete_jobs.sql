-- What nearly every batch of a worker is: one-time jobs, all still held, all succeeded. Such a
-- batch needs no verdict, and its rows go from one table to the other without a stop, which takes
-- half of the time of _end_attempts. It is all or nothing: where one pair is anything else (late,
-- repeated, of a schedule, cancelled meanwhile), nothing is done here but the locking.
--
-- The locks are those of _end_attempts, in its order, and it takes them again when it is called
-- next, so the two never deadlock. A row once locked keeps its state until we have deleted it. As
-- many rows as pairs are locked, so no pair comes twice. A job that completes is its own last
-- attempt, token and all: nothing goes to attempts. Where nothing is kept of it, it leaves a
-- receipt instead (_leave_receipts). If this process dies on any line, nothing has happened and the
-- leases still run.
create or replace function rota._complete_jobs(
    job_ids bigint[],
    tokens uuid[],
    results jsonb[]
)
    returns boolean
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_held tid[];
    v_kind integer;  -- the least of the batch: 3 plain, 2 linked, 1 counted, 0 none of these
    v_linked boolean;
    v_unkept boolean;
    v_left tid[];
    v_queues text[];
    v_keys text[];
begin
    select array_agg(h.place), min(h.kind), bool_or(h.unkept) into v_held, v_kind, v_unkept
    from (
        select
            j.ctid as place,
            case
                when j.schedule_type <> 'ONE_TIME' or j.cancel_requested_at is not null then 0
                when j.counted then 1
                when j.linked then 2
                else 3
            end as kind,
            j.unkept
        from rota.live_jobs as j
        where j.id = any(job_ids)
            and (j.id, j.token) in (select * from unnest(job_ids, tokens))
        order by j.id
        for no key update
    ) as h;

    if v_kind is distinct from 3 or cardinality(v_held) <> cardinality(job_ids) then
        if coalesce(v_kind, 0) = 0 or cardinality(v_held) <> cardinality(job_ids) then
            return false;
        end if;

        v_linked := v_kind = 2;

        if v_kind = 1 then
            select
                array_agg(j.queue) filter (where j.counted),
                array_agg(j.key) filter (where j.counted),
                bool_or(j.linked)
            into v_queues, v_keys, v_linked
            from rota.live_jobs as j
            where j.ctid = any(v_held);

            perform rota._offer_room(v_queues, v_keys, v_now);
        end if;
    end if;

    if v_unkept then
        v_left := rota._unkept(v_held);

        if cardinality(v_left) = cardinality(v_held) then
            perform rota._leave_receipts(v_left, v_now);
            return true;
        end if;

        v_held := array(
            select h.place from unnest(v_held) as h(place)
            except
            select l.place from unnest(v_left) as l(place)
        );
    end if;

    with gone as (
        delete from rota.live_jobs as j
        where j.ctid = any(v_held)
        returning
            j.id, j.task, j.payload, j.queue, j.priority, j.schedule_type, j.run_at,
            j.scheduled_for, j.run, j.attempt, j.max_retries, j.timeout, j.unique_key, j.worker,
            j.token, j.progress, j.last_error, j.created_at, j.started_at, j.headers, j.key
    )
    insert into rota.finished_jobs (
        id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run,
        attempt, max_retries, timeout, unique_key, worker, token, progress, last_error, result,
        created_at, started_at, finished_at, headers, key
    )
    select
        g.id, g.task, g.payload, g.queue, g.priority, 'COMPLETED', g.schedule_type, g.run_at,
        g.scheduled_for, g.run, g.attempt, g.max_retries, g.timeout, g.unique_key, g.worker,
        g.token, g.progress, g.last_error, r.result, g.created_at, g.started_at, v_now,
        g.headers, g.key
    from gone as g
    left join unnest(job_ids, results) as r(job_id, result) on r.job_id = g.id;

    if v_unkept then
        perform rota._leave_receipts(v_left, v_now);
    end if;

    if v_linked then
        perform rota._settle(job_ids, '{}');
    end if;

    return true;
end;
$$;

comment on function rota._complete_jobs is
    'Complete a batch of held one-time jobs that all succeeded; false if it is not such a batch.';
