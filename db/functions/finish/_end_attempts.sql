-- The one place where an attempt ends: finished, handed back or taken back. One row lock per job,
-- taken first and in the order of ids, so that two batches that share jobs never deadlock; nothing
-- is waited for after it (history rows are new, a schedule is only read). The lock re-checks the
-- token on the newest version of the row, so of two sessions that end one attempt, the second
-- finds nothing. What follows the lock runs in a statement of its own, whose snapshot is younger
-- than the lock and therefore sees the locked version.
-- If this process dies on any line, nothing has happened and the lease still runs.
--
-- What becomes of the job, first match:
--   a cancel was asked for       -> CANCELLED
--   RELEASED                     -> SCHEDULED again, the attempt given back
--   succeeded, ONE_TIME          -> COMPLETED
--   failed with retries left     -> SCHEDULED after its backoff; for a schedule, only if that is
--                                   before its next slot
--   failed otherwise, ONE_TIME   -> FAILED
--   a schedule with a next slot  -> SCHEDULED for it, as a new run
--   one whose next slot cannot   -> SCHEDULED as a new run whose slot is not known yet, which the
--   be computed                     next claim looks for (_settle_missed)
--   a schedule without one       -> COMPLETED
--
-- Each attempt leaves one row in attempts, but for the one that completes a ONE_TIME job: there the
-- job's row in finished_jobs is both, and has the token. Only a job that is never retried may be
-- that: who retries one deletes its finished row. Where nothing is kept of what completes, there is
-- a receipt instead; those come last, for their table is opened last.
--
-- A job that goes on keeps its place where the jobs of a key run in strict order (counted), and
-- also where an old snapshot cannot tell whether they do.
--
-- What depends on a job that ended is settled here and now (_settle).
--
-- ending is 'RELEASED', 'LOST', or null for an attempt that its worker finished. Rows come back
-- for the pairs that held a lease, and only for those.
create or replace function rota._end_attempts(
    job_ids bigint[],
    tokens uuid[],
    errors text[] default null,
    results jsonb[] default null,
    ending text default null,
    retry_in interval default null,
    retry boolean default true
)
    returns setof rota.ended_attempt
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_is_old constant boolean
        := current_setting('transaction_isolation') <> 'read committed';
    v_held tid[];
    v_counted boolean;
    v_unkept boolean;
    v_left tid[];
    v_linked bigint[];
    v_failed bigint[];
begin
    select
        array_agg(h.place), bool_or(h.counted), bool_or(h.unkept),
        array_agg(h.id) filter (where h.linked)
    into v_held, v_counted, v_unkept, v_linked
    from (
        select j.ctid as place, j.id, j.counted, j.unkept, j.linked
        from rota.live_jobs as j
        where j.id = any(job_ids)
            and (j.id, j.token) in (select * from unnest(job_ids, tokens))
        order by j.id
        for no key update
    ) as h;

    if v_counted then
        perform rota._offer_room(array_agg(j.queue), array_agg(j.key), v_now)
        from rota.live_jobs as j
        where j.ctid = any(v_held) and j.counted;
    end if;

    if v_unkept and ending is null then
        v_left := rota._unkept(v_held);
        v_left := array(
            select j.ctid
            from rota.live_jobs as j
            join (
                select distinct on (p.job_id, p.token) p.job_id, p.token, p.error
                from unnest(job_ids, tokens, errors)
                    with ordinality as p(job_id, token, error, place)
                order by p.job_id, p.token, p.place
            ) as f on f.job_id = j.id and f.token = j.token
            where j.ctid = any(v_left)
                and j.schedule_type = 'ONE_TIME'
                and j.cancel_requested_at is null
                and f.error is null
        );
        v_held := array(
            select h.place from unnest(v_held) as h(place)
            except
            select l.place from unnest(v_left) as l(place)
        );
    end if;

    return query
        with held as materialized (
            select
                j.*,
                j.ctid as place,
                i.result,
                left(i.error, 10000) as error,
                case
                    when ending = 'LOST' then 'LOST'
                    when j.cancel_requested_at is not null then 'CANCELLED'
                    when ending = 'RELEASED' then 'RELEASED'
                    when i.error is null then 'SUCCEEDED'
                    when v_now >= rota._later(j.started_at, j.timeout) then 'TIMED_OUT'
                    else 'FAILED'
                end as outcome,
                case
                    when ending is null and i.error is null then null  -- it succeeded
                    when ending = 'RELEASED' and retry_in = interval '0' then j.run_at
                    else rota._later(v_now, coalesce(
                        retry_in, rota._backoff(j.attempt, q.backoff_base, q.backoff_cap)
                    ))
                end as retry_at,
                case when j.schedule_type <> 'ONE_TIME'
                    then rota._next_slot(j, v_now)
                end as next,
                q.key_in_order
            from rota.live_jobs as j
            join (
                select distinct on (u.job_id, u.token) u.*
                from unnest(job_ids, tokens, errors, results)
                    with ordinality as u(job_id, token, error, result, place)
                order by u.job_id, u.token, u.place
            ) as i on i.job_id = j.id and i.token = j.token
            left join rota.queues as q on q.name = j.queue
            where j.ctid = any(v_held)
        ), judged as (
            select
                h.*,
                case
                    when h.cancel_requested_at is not null then 'CANCELLED'
                    when h.outcome = 'RELEASED' then 'SAME RUN'
                    when h.outcome = 'SUCCEEDED' and h.schedule_type = 'ONE_TIME' then 'COMPLETED'
                    when h.outcome <> 'SUCCEEDED' and retry and h.attempt <= h.max_retries
                        and ((h.next).slot is null or h.retry_at < (h.next).slot) then 'SAME RUN'
                    when h.schedule_type = 'ONE_TIME' then 'FAILED'
                    when (h.next).slot is not null or (h.next).error is not null then 'NEXT RUN'
                    else 'COMPLETED'
                end as verdict
            from held as h
        ), decided as materialized (
            select
                d.*,
                case when d.verdict in ('SAME RUN', 'NEXT RUN')
                    then 'SCHEDULED'
                    else d.verdict
                end as new_state,
                case
                    when d.verdict = 'NEXT RUN' then (d.next).run_at
                    when d.verdict = 'SAME RUN' and (d.next).run_at = 'infinity' then 'infinity'
                    when d.verdict = 'SAME RUN' then d.retry_at
                end as new_run_at,
                case
                    when d.verdict = 'SAME RUN' and d.key is not null
                        and (d.key_in_order or v_is_old)
                        then true
                end as new_counted,
                d.verdict = 'COMPLETED' and d.schedule_type = 'ONE_TIME' as is_both
            from judged as d
        ), kept as (
            update rota.live_jobs as j
            set state = 'SCHEDULED',
                run_at = d.new_run_at,
                scheduled_for = case
                    when d.verdict = 'NEXT RUN' and (d.next).slot is not null then (d.next).slot
                    else d.scheduled_for
                end,
                run = d.run + case d.verdict when 'NEXT RUN' then 1 else 0 end,
                attempt = case
                    when d.verdict = 'NEXT RUN' then 0
                    when d.outcome = 'RELEASED' then d.attempt - 1
                    else d.attempt
                end,
                progress = case d.verdict when 'SAME RUN' then d.progress end,
                last_error = coalesce(
                    case d.verdict when 'NEXT RUN' then (d.next).error end, d.error, d.last_error
                ),
                token = null,
                worker = null,
                lease_until = null,
                started_at = null,
                counted = d.new_counted,
                left_lane = null,
                unsettled_since = case
                    when d.verdict = 'NEXT RUN' and (d.next).error is not null then v_now
                end
            from decided as d
            where j.id = d.id
                and j.ctid = any(array(
                    select k.place from decided as k where k.new_state = 'SCHEDULED'
                ))
        ), gone as (
            delete from rota.live_jobs as j
            where j.ctid = any(array(
                select k.place from decided as k where k.new_state <> 'SCHEDULED'
            ))
        ), ended as (
            insert into rota.finished_jobs (
                id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for,
                run, attempt, max_retries, timeout, unique_key, name, worker, token, progress,
                cancel_requested_at, cancel_reason, last_error, result, created_at, started_at,
                finished_at, headers, key
            )
            select
                d.id, d.task, d.payload, d.queue, d.priority, d.new_state, d.schedule_type,
                d.run_at, d.scheduled_for, d.run, d.attempt, d.max_retries, d.timeout,
                d.unique_key, d.name, d.worker, case when d.is_both then d.token end, d.progress,
                d.cancel_requested_at, d.cancel_reason, coalesce(d.error, d.last_error), d.result,
                d.created_at, d.started_at, v_now, d.headers, d.key
            from decided as d
            where d.new_state <> 'SCHEDULED'
        ), recorded as (
            insert into rota.attempts (
                job_id, run, attempt, outcome, worker, token, scheduled_for, started_at,
                finished_at, error, result, job_state, next_run_at
            )
            select
                d.id, d.run, d.attempt, d.outcome, d.worker, d.token, d.scheduled_for,
                d.started_at, v_now, d.error, d.result, d.new_state,
                nullif(d.new_run_at, 'infinity')
            from decided as d
            where not d.is_both
        ), passed as (
            insert into rota.attempts (
                job_id, run, attempt, outcome, scheduled_for, finished_at, error, result,
                job_state, next_run_at
            )
            select
                d.id, d.run, 0, 'SKIPPED', d.scheduled_for, v_now, p.reason,
                jsonb_build_object('slots', p.slots), d.new_state, nullif(d.new_run_at, 'infinity')
            from decided as d
            cross join lateral rota._slots_passed(
                d.id, d.scheduled_for, (d.next).slot,
                d.outcome not in ('SUCCEEDED', 'CANCELLED') and retry
                    and d.attempt <= d.max_retries
            ) as p
            where d.verdict = 'NEXT RUN' and p.reason is not null
        )
        select d.id, d.token, d.new_state, nullif(d.new_run_at, 'infinity')
        from decided as d
        where case  -- always true: those who sleep are told of what comes back
            when d.new_run_at < 'infinity' then rota._wake(d.queue, d.new_run_at, v_now)
            else true
        end;

    if v_left <> '{}' then
        return query
            select j.id, j.token, 'COMPLETED', null::timestamptz
            from rota.live_jobs as j
            where j.ctid = any(v_left);

        perform rota._leave_receipts(v_left, v_now);
    end if;

    if v_linked is not null then
        select array_agg(f.id), array_agg(f.id) filter (where f.state <> 'COMPLETED')
        into v_linked, v_failed
        from rota.finished_jobs as f
        where f.id = any(v_linked) and f.finished_at = v_now;

        if v_linked is not null then
            perform rota._settle(v_linked, coalesce(v_failed, '{}'));
        end if;
    end if;
end;
$$;

comment on function rota._end_attempts is
    'End the attempts held under these (job, token) pairs, and say what became of the jobs.';
