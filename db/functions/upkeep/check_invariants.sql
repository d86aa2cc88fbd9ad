-- Each arm names the rule that it checks. It reads a single snapshot, so it may be called at any
-- moment, by any number of sessions, on a system under load. The CHECKs of the tables hold most of
-- these already; they are looked at again because a restore or a hand-made change may have gone
-- round them. Tokens are not shown: they are for their holders. The cost is a scan of all tables:
-- an operator's tool, not a metric, and for one without walls, for it names jobs of all queues. No
-- JIT: to tables never analyzed the plan looks so dear that compiling it takes two seconds.
create or replace function rota.check_invariants()
    returns setof rota.broken_invariant
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    select rota._check_no_wall('check_invariants');

    with every_attempt as not materialized (
        select
            f.id as job_id, f.run, f.attempt, 'SUCCEEDED' as outcome, f.finished_at,
            false as gave_up, f.token
        from rota.finished_jobs as f
        where f.token is not null
        union all
        select
            a.job_id, a.run, a.attempt, a.outcome::text, a.finished_at,
            a.job_state = 'FAILED', a.token
        from rota.attempts as a
        union all
        select r.id, null, null, 'SUCCEEDED', r.finished_at, false, r.token
        from rota.receipts as r
    ), ended_attempts as (
        select
            e.job_id,
            e.run,
            e.attempt,
            count(*) filter (where e.outcome not in ('RELEASED', 'SKIPPED')) as charged,
            count(*) filter (where e.outcome in ('SUCCEEDED', 'CANCELLED')) as final
        from every_attempt as e
        group by e.job_id, e.run, e.attempt
    ), kept as (
        -- Older attempts may have been dropped, or taken out of what is there: since when all that
        -- succeeded are there, all others, and all.
        select
            greatest(s.kept_since, s.completed_since) as completed_since,
            greatest(s.kept_since, s.failed_since) as failed_since,
            greatest(s.kept_since, s.completed_since, s.failed_since) as since
        from rota.settings as s
    ), counted as (
        -- The minutes that hold, as far back as all of their history is there, by outcome.
        select
            o.succeeded,
            greatest(
                c.since, date_trunc('hour', o.since + interval '59 min 59.999999 s', 'UTC')
            ) as since,
            rota._recount_from(c.until, rota._now()) as until
        from rota.chores as c
        cross join kept as k
        cross join lateral (
            values (true, k.completed_since), (false, k.failed_since)
        ) as o(succeeded, since)
        where c.chore = 'roll_up'
    )
    select 'S1: a live job is WAITING, SCHEDULED or RUNNING', j.id, j.state::text
    from rota.live_jobs as j
    where j.state not in ('WAITING', 'SCHEDULED', 'RUNNING')

    union all
    select 'S2: RUNNING if and only if leased', j.id,
        format(
            '%s, %s, worker %s, lease_until %s',
            j.state,
            case when j.token is null then 'no token' else 'a token' end,
            j.worker,
            rota._utc_text(j.lease_until)
        )
    from rota.live_jobs as j
    where num_nonnulls(j.token, j.worker, j.lease_until, j.started_at)
        <> case when j.state = 'RUNNING' then 4 else 0 end

    union all
    select 'S3: a finished job has ended', f.id, f.state::text
    from rota.finished_jobs as f
    where f.state not in ('COMPLETED', 'FAILED', 'CANCELLED')

    union all
    select 'S4: a job is live or finished, not both', f.id, f.state::text
    from rota.finished_jobs as f
    join rota.live_jobs as j on j.id = f.id

    union all
    select 'S4: a job is finished once', f.id, format('%s times', count(*))
    from rota.finished_jobs as f
    group by f.id
    having count(*) > 1

    union all
    select 'S5: attempts stay within max_retries', j.id,
        format('attempt %s, max_retries %s', j.attempt, j.max_retries)
    from rota.live_jobs as j
    where j.attempt not between 0 and j.max_retries + 1
        or (j.state = 'RUNNING' and j.attempt = 0)

    union all
    select 'S6: a job that waits has a time to run', j.id,
        rota._utc_text(j.run_at)
    from rota.live_jobs as j
    where j.state = 'SCHEDULED'
        and not isfinite(j.run_at)
        and j.schedule_type = 'ONE_TIME'

    union all
    select 'S10: one execution for each attempt that ended', a.job_id,
        format('run %s, attempt %s has %s', a.run, a.attempt, a.charged)
    from ended_attempts as a
    where a.charged > 1

    union all
    select 'S10: every attempt that ended is recorded', j.id,
        format('run %s: attempt %s is not recorded', j.run, missing.attempt)
    from rota.live_jobs as j
    cross join lateral generate_series(
        1, j.attempt - case j.state when 'RUNNING' then 1 else 0 end
    ) as missing(attempt)
    cross join kept as k
    where j.created_at >= k.failed_since
        and not exists (
            select from ended_attempts as a
            where a.job_id = j.id
                and a.run = j.run
                and a.attempt = missing.attempt
                and a.charged = 1
        )

    union all
    select 'S10: every attempt that ended is recorded', f.id,
        format('run %s: attempt %s is not recorded', f.run, missing.attempt)
    from rota.finished_jobs as f
    cross join lateral generate_series(1, f.attempt) as missing(attempt)
    cross join kept as k
    where f.created_at >= case f.state when 'COMPLETED' then k.since else k.failed_since end
        and not exists (
            select from ended_attempts as a
            where a.job_id = f.id
                and a.run = f.run
                and a.attempt = missing.attempt
                and a.charged = 1
        )

    union all
    select 'S10: no execution beyond the attempts made', e.job_id,
        format('run %s, attempt %s', e.run, e.attempt)
    from every_attempt as e
    join (
        select f.id, f.run, f.attempt from rota.finished_jobs as f
        union all
        select l.id, l.run, l.attempt from rota.live_jobs as l
    ) as j on j.id = e.job_id
    where e.outcome not in ('RELEASED', 'SKIPPED')
        and (e.run > j.run or (e.run = j.run and e.attempt > j.attempt))

    union all
    select 'L3: a token ends an attempt once', e.job_id, format('%s attempts', count(*))
    from every_attempt as e
    where e.token is not null
    group by e.job_id, e.token
    having count(*) > 1

    union all
    select 'L3: a live token has not ended an attempt', j.id,
        format('run %s, attempt %s', e.run, e.attempt)
    from rota.live_jobs as j
    join every_attempt as e on e.job_id = j.id and e.token = j.token

    union all
    select 'S4: a COMPLETED job succeeded once in its run', f.id, format('run %s', f.run)
    from rota.finished_jobs as f
    cross join kept as k
    where f.state = 'COMPLETED'
        and f.schedule_type = 'ONE_TIME'
        and f.created_at >= k.completed_since
        and case when f.token is null then 1 else 0 end <> (
            select count(*)
            from rota.attempts as e
            where e.job_id = f.id and e.run = f.run and e.outcome = 'SUCCEEDED'
        )

    union all
    select 'S9: the minutes are a recount of what ended', null,
        format(
            'hour from %s, %s: counted %s, gave up %s; there are %s, %s',
            rota._utc_text(coalesce(m.hour, e.hour)), coalesce(m.outcome, e.outcome),
            coalesce(m.ended, 0), coalesce(m.gave_up, 0),
            coalesce(e.ended, 0), coalesce(e.gave_up, 0)
        )
    from (
        select
            date_trunc('hour', m.minute, 'UTC') as hour, m.outcome,
            sum(m.ended) as ended, sum(m.gave_up) as gave_up
        from rota.minutes as m
        join counted as c on c.succeeded = (m.outcome = 'SUCCEEDED')
        where m.minute >= c.since and m.minute < c.until
        group by 1, 2
    ) as m
    full join (
        select
            date_trunc('hour', e.finished_at, 'UTC') as hour, e.outcome,
            count(*) as ended, count(*) filter (where e.gave_up) as gave_up
        from every_attempt as e
        join counted as c on c.succeeded = (e.outcome = 'SUCCEEDED')
        where e.finished_at >= c.since and e.finished_at < c.until
        group by 1, 2
    ) as e on e.hour = m.hour and e.outcome = m.outcome
    where (m.ended, m.gave_up) is distinct from (e.ended, e.gave_up)

    union all
    select 'S9: the totals hold all minutes', null,
        format('queue %s, task %s, %s', m.queue, m.task, m.outcome)
    from (
        select m.queue, m.task, m.outcome, sum(m.ended) as ended
        from rota.minutes as m
        group by m.queue, m.task, m.outcome
    ) as m
    left join rota.totals as t
        on t.queue = m.queue and t.task = m.task and t.outcome = m.outcome
    where t.ended is null or t.ended < m.ended

    union all
    select 'C2: claims know the lane of every live job', j.id,
        format('queue %s, priority %s', j.queue, j.priority)
    from rota.live_jobs as j
    where not exists (
        select from rota.lanes as l
        where l.queue = j.queue and l.priority = j.priority
            and (l.keyed is not null) = (j.key is not null)
    )

    union all
    select 'C7: a turn leads to every scheduled job with a key', j.id,
        format('queue %s, key %s', j.queue, j.key)
    from rota.live_jobs as j
    where j.key is not null
        and j.state = 'SCHEDULED'
        and j.run_at < 'infinity'
        and not exists (
            select from rota.turns as t
            where t.queue = j.queue
                and t.key = j.key
                and t.priority = j.priority
                and (t.from_run_at, t.from_id) <= (j.run_at, j.id)
                and (
                    t.is_full
                    or t.ready_at <= greatest(j.run_at, rota._now() + interval '1 second')
                )
        )

    union all
    select 'C8: what runs under a limit is counted', j.id,
        format('queue %s, key %s', j.queue, j.key)
    from rota.live_jobs as j
    join rota.flow_locks as l on l.queue = j.queue and l.number = -1 and l.settled
    join rota.queues as q on q.name = j.queue and q.limited between 1 and 15
    where j.state = 'RUNNING' and j.counted is null

    union all
    select 'C9: what waits stands in its lane', j.id, format('queue %s, key %s', j.queue, j.key)
    from rota.live_jobs as j
    where j.state = 'SCHEDULED' and j.counted and j.left_lane

    union all
    select 'W1: a job is WAITING if and only if there is something to wait for',
        coalesce(j.id, w.job_id), format('%s, waits for %s', j.state, w.open)
    from rota.live_jobs as j
    full join rota.job_waits as w on w.job_id = j.id
    where (w.job_id is not null) is distinct from coalesce(j.state = 'WAITING', false)

    union all
    select 'W2: a WAITING job waits for as many edges as lead to it', w.job_id,
        format('waits for %s, there are %s', w.open, coalesce(e.edges, 0))
    from rota.job_waits as w
    left join (
        select d.child_id, count(*) as edges
        from rota.job_dependencies as d
        group by d.child_id
    ) as e on e.child_id = w.job_id
    where w.open is distinct from e.edges

    union all
    select 'W3: an edge leads from a job that lives and looks for it at its end', d.parent_id,
        format('job %s depends on it', d.child_id)
    from rota.job_dependencies as d
    left join rota.live_jobs as j on j.id = d.parent_id
    where j.linked is not true

    union all
    select 'W4: no job has begun while one on which it depends lives', n.job_id,
        format('depends on job %s', j.id)
    from rota.workflow_jobs as n
    cross join lateral unnest(n.depends_on) as p(id)
    join rota.live_jobs as j on j.id = p.id
    where n.if_parent_fails = 'cancel'
        and (
            exists (
                select from rota.live_jobs as c where c.id = n.job_id and c.state <> 'WAITING'
            )
            or exists (
                select
                from rota.finished_jobs as f
                where f.id = n.job_id and f.state <> 'CANCELLED'
            )
        )

    union all
    select 'W5: a job that depends on another was enqueued after it', n.job_id,
        format('depends on job %s', p.id)
    from rota.workflow_jobs as n
    cross join lateral unnest(n.depends_on) as p(id)
    where p.id >= n.job_id

    union all
    select 'E5: one live job per queue and unique_key', min(j.id), j.unique_key
    from rota.live_jobs as j
    where j.unique_key is not null
    group by j.queue, j.unique_key
    having count(*) > 1

    union all
    select 'E9: the sequence is ahead of every id', a.id,
        format('the next job gets id %s; deploy or maintain heals it', rota._next_job_id())
    from rota._id_ahead() as a(id)
    where a.id is not null

    union all
    select 'K2: a live schedule has a definition and a next run', j.id,
        format('%s, run_at %s', j.schedule_type, rota._utc_text(j.run_at))
    from rota.live_jobs as j
    left join rota.schedules as s on s.job_id = j.id
    where j.schedule_type <> 'ONE_TIME'
        and (
            s.job_id is null
            or (s.cron is not null) <> (j.schedule_type = 'CRON')
            or (j.state = 'SCHEDULED' and j.run_at = 'infinity' and s.paused_at is null)
        )

    union all
    select 'K2: the next slot of a live schedule can be computed', j.id, j.last_error
    from rota.live_jobs as j
    where j.unsettled_since is not null

    union all
    select 'K2: a schedule never fails', f.id, f.state::text
    from rota.finished_jobs as f
    where f.schedule_type <> 'ONE_TIME' and f.state = 'FAILED'

    union all
    select 'S4: what left a receipt is neither live nor finished', r.id, coalesce(j.state, f.state)
    from rota.receipts as r
    left join rota.live_jobs as j on j.id = r.id
    left join rota.finished_jobs as f on f.id = r.id
    where j.id is not null or f.id is not null

    union all
    select 'S4: a job leaves one receipt', r.id, format('%s receipts', count(*))
    from rota.receipts as r
    group by r.id
    having count(*) > 1
$$;

comment on function rota.check_invariants is
    'Return the rows that break a rule of Rota; none on a healthy database.';
