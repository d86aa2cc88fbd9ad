-- The functions of before there were workflows (0140), as far as jobs are finished, handed back,
-- cancelled and retried by them: what runs on while a database is upgraded (test_upgrade.py).
-- Without their comments.

create or replace function rota._impossible_job(
    state text,
    schedule_type text,
    attempt integer,
    max_retries integer,
    run_at timestamptz,
    name text,
    cancel_requested_at timestamptz,
    held integer
)
    returns text
    language sql
    immutable
as $$
    select case
        when held <> case state when 'RUNNING' then 4 else 0 end
            then 'running_iff_leased'
        when cancel_requested_at is not null and state <> 'RUNNING'
            then 'only_a_running_job_waits_for_its_cancel'
        when attempt not between 0 and max_retries + 1
            then 'attempt_within_max_retries'
        when attempt = 0 and state = 'RUNNING'
            then 'running_attempt_is_charged'
        when schedule_type = 'ONE_TIME' and not isfinite(run_at)
            then 'only_a_schedule_waits_for_ever'
        when schedule_type = 'ONE_TIME' and name is not null
            then 'only_a_schedule_is_named'
    end
$$;

create or replace function rota._watch_jobs()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_id bigint;
    v_rule text;
    v_queues text[];
    v_priorities integer[];
    v_keys text[];
    v_run_ats timestamptz[];
    v_ids bigint[];
begin
    perform
    from changed as j
    where not (
        case j.state
            when 'SCHEDULED' then num_nonnulls(
                j.token, j.worker, j.lease_until, j.started_at, j.cancel_requested_at, j.key
            ) = 0
            when 'RUNNING' then j.attempt > 0
                and num_nonnulls(j.token, j.worker, j.lease_until, j.started_at) = 4
        end
        and j.attempt between 0 and j.max_retries + 1
        and (j.schedule_type <> 'ONE_TIME' or j.name is null and isfinite(j.run_at))
    )
    limit 1;

    if not found then
        return null;
    end if;

    select j.id, c.rule into v_id, v_rule
    from changed as j
    cross join lateral (
        select rota._impossible_job(
            j.state, j.schedule_type, j.attempt, j.max_retries, j.run_at, j.name,
            j.cancel_requested_at,
            num_nonnulls(j.token, j.worker, j.lease_until, j.started_at)
        ) as rule
    ) as c
    where c.rule is not null
    limit 1;

    if found then
        raise exception 'job % would break the rule %', v_id, v_rule
            using errcode = 'RTI01',
                  hint = 'No function of Rota does that: somebody writes to live_jobs by hand, '
                      'or this is a bug.';
    end if;

    select
        array_agg(k.queue), array_agg(k.priority), array_agg(k.key), array_agg(k.run_at),
        array_agg(k.id)
    into v_queues, v_priorities, v_keys, v_run_ats, v_ids
    from (
        select distinct on (j.queue, j.priority, j.key)
            j.queue, j.priority, j.key, j.run_at, j.id
        from changed as j
        where j.key is not null and j.state = 'SCHEDULED' and j.run_at < 'infinity'
        order by j.queue, j.priority, j.key, j.run_at, j.id
    ) as k;

    perform rota._post_turns(v_queues, v_priorities, v_keys, v_run_ats, v_ids);

    return null;
end;
$$;

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
    v_kind integer;  -- the least of the batch: 2 plain, 1 counted, 0 neither
begin
    select array_agg(h.place), min(h.kind) into v_held, v_kind
    from (
        select
            j.ctid as place,
            case
                when j.schedule_type <> 'ONE_TIME' or j.cancel_requested_at is not null then 0
                when j.counted then 1
                else 2
            end as kind
        from rota.live_jobs as j
        where j.id = any(job_ids)
            and (j.id, j.token) in (select * from unnest(job_ids, tokens))
        order by j.id
        for no key update
    ) as h;

    if v_kind is distinct from 2 or cardinality(v_held) <> cardinality(job_ids) then
        if v_kind is distinct from 1 or cardinality(v_held) <> cardinality(job_ids) then
            return false;
        end if;

        perform rota._offer_room(array_agg(j.queue), array_agg(j.key), v_now)
        from rota.live_jobs as j
        where j.ctid = any(v_held) and j.counted;
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

    return true;
end;
$$;

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
    v_held tid[];
    v_counted boolean;
begin
    select array_agg(h.place), bool_or(h.counted) into v_held, v_counted
    from (
        select j.ctid as place, j.counted
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
                case when d.verdict = 'SAME RUN' and d.key_in_order then d.counted end
                    as new_counted,
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
end;
$$;

create or replace function rota.finish_job(
    job_id bigint,
    token uuid,
    error text default null,
    result jsonb default null,
    retry_in interval default null,
    retry boolean default true
)
    returns rota.job_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_outcome rota.job_outcome;
begin
    perform rota._check_delay('retry_in', retry_in);

    if error is null and retry_in is null
        and rota._complete_jobs(array[job_id], array[token], array[result])
    then
        return row(job_id, 'COMPLETED', null)::rota.job_outcome;
    end if;

    select e.job_id, e.state, e.run_at into v_outcome
    from rota._end_attempts(
        array[job_id], array[token], array[error], array[result],
        retry_in => retry_in, retry => coalesce(retry, true)
    ) as e;

    if found then
        return v_outcome;
    end if;

    v_outcome := rota._past_outcome(job_id, token, error, result);

    if v_outcome.state = 'LEASE_LOST' then
        perform rota._refuse_lost_lease(job_id);
    end if;

    if v_outcome.state = 'CONFLICT' then
        raise exception 'job % was finished under this token before, with another outcome', job_id
            using errcode = 'RTC03';
    end if;

    return v_outcome;
end;
$$;

create or replace function rota.release_job(
    job_id bigint,
    token uuid,
    delay interval default '0',
    reason text default null
)
    returns rota.job_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_outcome rota.job_outcome;
    v_past rota.attempts;
begin
    perform rota._check_delay('delay', delay);

    select e.job_id, e.state, e.run_at into v_outcome
    from rota._end_attempts(
        array[job_id], array[token], array[reason],
        ending => 'RELEASED', retry_in => coalesce(delay, interval '0')
    ) as e;

    if found then
        return v_outcome;
    end if;

    v_past := rota._past_ending(job_id, token);

    if v_past.job_id is null or v_past.outcome not in ('RELEASED', 'CANCELLED') then
        perform rota._refuse_lost_lease(job_id);
    end if;

    return row(v_past.job_id, v_past.job_state, v_past.next_run_at)::rota.job_outcome;
end;
$$;

create or replace function rota.heartbeat_job(
    job_id bigint,
    token uuid,
    lease interval default '60 seconds',
    progress jsonb default null
)
    returns rota.lease
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_lease rota.lease;
begin
    if not rota._is_lease(lease) then
        perform rota._refuse_lease(lease);
    end if;

    update rota.live_jobs as j
    set lease_until = greatest(j.lease_until, rota._later(v_now, lease)),
        progress = coalesce(heartbeat_job.progress, j.progress)
    where j.id = heartbeat_job.job_id and j.token = heartbeat_job.token
    returning j.lease_until, j.cancel_requested_at is not null into v_lease;

    if not found then
        perform rota._refuse_lost_lease(job_id);
    end if;

    return v_lease;
end;
$$;

create or replace function rota._cancel_jobs(
    job_ids bigint[],
    reason text,
    at timestamptz,
    filter rota.job_filter default null
)
    returns setof rota.steered_job
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids bigint[];
    v_job rota.live_jobs;
begin
    if length(reason) > 1000 then
        raise exception 'reason must have at most 1000 characters, not %', length(reason)
            using errcode = 'RTV01';
    end if;

    v_ids := array(
        select j.id
        from rota.live_jobs as j
        where j.id = any(job_ids)
            and (filter is null or rota._matches(
                filter, j.id, j.state, j.queue, j.task, j.schedule_type, j.unique_key, j.key,
                j.run_at, null
            ))
        order by j.id
        for no key update
    );

    for v_place in 1..cardinality(v_ids) loop
        select j.* into v_job
        from rota.live_jobs as j
        where j.id = v_ids[v_place];

        return next row(
            v_job.id, v_job.queue, rota._cancel_live_job(v_job, reason, at), null, null
        )::rota.steered_job;
    end loop;
end;
$$;

create or replace function rota._retry_jobs(
    job_ids bigint[],
    at timestamptz,
    filter rota.job_filter default null
)
    returns setof rota.steered_job
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids bigint[];
    v_first timestamptz;  -- between these they ended, so that other weeks are not searched again
    v_last timestamptz;
    v_recurring boolean;
    v_revived bigint[];
    v_queues text[];
    v_priorities integer[];
    v_run_ats timestamptz[];
    v_keyed boolean[];
begin
    select array_agg(l.id), min(l.finished_at), max(l.finished_at), bool_or(l.recurring)
    into v_ids, v_first, v_last, v_recurring
    from (
        select f.id, f.finished_at, f.schedule_type <> 'ONE_TIME' as recurring
        from rota.finished_jobs as f
        where f.id = any(job_ids)
            and f.state in ('FAILED', 'CANCELLED')
            and (filter is null or rota._matches(
                filter, f.id, f.state, f.queue, f.task, f.schedule_type, f.unique_key, f.key,
                f.run_at, f.finished_at
            ))
        order by f.id
        for update
    ) as l;

    if v_ids is null then
        return;
    end if;

    with revived as (
        insert into rota.live_jobs as j (
            id, task, payload, queue, priority, schedule_type, run_at, scheduled_for, run,
            max_retries, timeout, unique_key, name, last_error, created_at, headers, key
        )
        select
            f.id, f.task, f.payload, f.queue, f.priority, f.schedule_type, t.run_at, t.run_at,
            f.run + 1, f.max_retries, f.timeout, f.unique_key, f.name, f.last_error, f.created_at,
            f.headers, f.key
        from rota.finished_jobs as f
        cross join lateral (
            select case when f.schedule_type = 'ONE_TIME' then at else rota._retry_time(f, at) end
        ) as t(run_at)
        where f.id = any(v_ids) and f.finished_at between v_first and v_last
            and t.run_at is not null
        order by f.unique_key collate "C" nulls first, f.queue collate "C", f.id
        on conflict do nothing
        returning j.id, j.queue, j.priority, j.run_at, j.key
    )
    select
        coalesce(array_agg(r.id), '{}'), array_agg(r.queue), array_agg(r.priority),
        array_agg(r.run_at), array_agg(r.key is not null)
    into v_revived, v_queues, v_priorities, v_run_ats, v_keyed
    from (select * from revived order by id) as r;

    if v_recurring then
        update rota.schedules as s
        set paused_at = null,
            trigger_requested_at = null
        where s.job_id = any(v_revived);
    end if;

    delete from rota.finished_jobs as f
    where f.id = any(v_revived) and f.finished_at between v_first and v_last;

    perform
        rota._use_lane(l.queue, l.priority, l.keyed), rota._wake(l.queue, l.first_run_at, at)
    from (
        select r.queue, r.priority, r.keyed, min(r.run_at) as first_run_at
        from unnest(v_queues, v_priorities, v_run_ats, v_keyed)
            as r(queue, priority, run_at, keyed)
        group by r.queue, r.priority, r.keyed
    ) as l;

    return query
    select r.id, r.queue, 'SCHEDULED', r.run_at, null
    from unnest(v_revived, v_queues, v_run_ats) as r(id, queue, run_at);

    if cardinality(v_revived) < cardinality(v_ids) then
        return query
        select f.id, f.queue, f.state::text, null::timestamptz, case
            when rota._retry_time(f, at) is null then 'over'
            when f.name is not null then 'name'
            else 'unique_key'
        end
        from rota.finished_jobs as f
        where f.id = any(v_ids);
    end if;
end;
$$;

create or replace function rota.cancel_job(job_id bigint, reason text default null)
    returns rota.job_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_job rota.live_jobs;
    v_state text;
begin
    perform from rota.queue_walls;

    if found then
        perform rota._check_job(job_id);
    end if;

    if length(reason) > 1000 then
        raise exception 'reason must have at most 1000 characters, not %', length(reason)
            using errcode = 'RTV01';
    end if;

    for v_look in 1..2 loop
        select j.* into v_job
        from rota.live_jobs as j
        where j.id = cancel_job.job_id
        for no key update;

        if found then
            v_state := rota._cancel_live_job(v_job, reason, v_now);

            perform rota._record_action(
                'cancel_job', v_job.id, v_job.queue,
                details => jsonb_build_object('reason', reason)
            );

            return row(v_job.id, v_state, null)::rota.job_outcome;
        end if;

        select f.state into v_state
        from rota.finished_jobs as f
        where f.id = cancel_job.job_id;

        exit when found;
    end loop;

    if v_state is null then
        perform rota._refuse_no_job(job_id);
    end if;

    if v_state <> 'CANCELLED' then
        raise exception 'job % is % already', job_id, v_state
            using errcode = 'RTC01';
    end if;

    return row(job_id, v_state, null)::rota.job_outcome;
end;
$$;

create or replace function rota.retry_job(job_id bigint)
    returns rota.job_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_job rota.steered_job;
    v_state text;
begin
    perform from rota.queue_walls;

    if found then
        perform rota._check_job(job_id);
    end if;

    select r.* into v_job
    from rota._retry_jobs(array[job_id], rota._enqueue_time()) as r;

    if not found then
        select j.state into v_state
        from rota.jobs as j
        where j.id = retry_job.job_id;

        if v_state is null then
            perform rota._refuse_no_job(job_id);
        end if;

        raise exception 'job % is %; only a FAILED or CANCELLED job can be retried', job_id, v_state
            using errcode = 'RTC01';
    end if;

    if v_job.refusal = 'over' then
        raise exception 'the schedule of job % is over', job_id
            using errcode = 'RTC01';
    end if;

    if v_job.refusal is not null then
        raise exception 'job % cannot be retried: another live job holds its %', job_id,
            v_job.refusal
            using errcode = 'RTC03';
    end if;

    perform rota._record_action('retry_job', v_job.job_id, v_job.queue);

    return row(v_job.job_id, v_job.state, v_job.run_at)::rota.job_outcome;
end;
$$;
