-- What people read. A view runs with its owner's rights, so a reader needs none on the tables. As
-- the functions are, the views are applied anew on every deploy, in the same transaction.
-- New columns go to the end of a view; nothing else of it can be replaced. Where more changes, the
-- block below sets the old view aside, and the last one of this file removes it.
--
-- A caller behind walls is shown what is of his queues, all others are shown everything
-- (visible_queues, asked once a statement). The first part of that condition is always true, and is
-- there to be asked before any row is read: asked for the first row that is found, it would tell by
-- the time it takes that there is one. Attempts go without, for their order and their constants
-- would no longer reach the indexes; the API asks for those of a job that it has found.
--
-- Such a view is a security barrier: what a reader's own conditions call sees no row that the view
-- leaves out. Conditions that cannot tell of a row (=, <, any on numbers, texts, times) still reach
-- the indexes; an order by does not, nor does a join, so walled jobs come by id, the newest first,
-- and other rows are asked for by "id = any(array(select ...))". Where no walls are, nobody is to
-- pay for that: the views of all jobs and executions are of one kind or the other, _all_ or
-- _walled_, as _guard_views has them.
--
-- Types are plain ones, the same in both halves of a view: a cast from one domain to another would
-- keep a condition from the indexes.

do $$
declare
    v_name text;
begin
    -- While the functions of before maintain the weeks of rota.attempts under its name of before,
    -- those cannot be renamed; this is the lock that they try. Anybody may hold it, but not us up.
    if to_regclass('rota.job_executions_default') is not null then
        begin
            perform pg_advisory_xact_lock(hashtextextended('rota.maintain', 0));
        exception
            when lock_not_available then
                null;
        end;
    end if;

    -- Who reads one of these has locked it before the view behind it, so we do the same.
    for v_name in
        select c.relname
        from pg_catalog.pg_class as c
        where c.relnamespace = 'rota'::regnamespace
            and c.relkind = 'v'
            and c.relname in ('jobs', 'job_executions', 'executions')
        order by c.relname desc
    loop
        execute format('alter view rota.%I set (security_barrier = false)', v_name);
    end loop;

    -- state was of a domain in jobs and schedule_status. job_executions has the token for as long
    -- as calls of functions may be under way that read and write through it (0010_attempts).
    for v_name in
        select c.relname
        from pg_catalog.pg_class as c
        join pg_catalog.pg_attribute as a on a.attrelid = c.oid
        where c.relnamespace = 'rota'::regnamespace
            and c.relkind = 'v'
            and (
                c.relname in ('jobs', 'schedule_status')
                and a.attname = 'state'
                and a.atttypid <> 'text'::regtype
                or c.relname = 'job_executions'
                and a.attname = 'token'
                and strpos(
                    coalesce(current_setting('rota.before', true), ''), 'rota.job_executions'
                ) = 0
            )
    loop
        execute format('alter view rota.%I rename to %I', v_name, v_name || '_before');
    end loop;
end;
$$;

create or replace view rota._all_stored_jobs as
select
    j.id,
    j.task::text as task,
    j.state::text as state,
    j.schedule_type::text as schedule_type,
    j.queue::text as queue,
    j.priority::integer as priority,
    nullif(j.run_at::timestamptz, 'infinity') as run_at,
    j.attempt,
    j.max_retries::integer as max_retries,
    j.payload,
    null::jsonb as result,
    j.last_error,
    j.unique_key::text as unique_key,
    j.name::text as name,
    j.worker,
    j.lease_until::timestamptz as lease_until,
    j.created_at,
    j.started_at,
    null::timestamptz as finished_at,
    j.scheduled_for,
    j.run::bigint as run,
    j.timeout::interval as timeout,
    j.progress,
    j.cancel_requested_at,
    j.cancel_reason,
    j.headers,
    j.key::text as key,
    (j.counted and j.left_lane) is not true or j.counted as is_indexed
from rota.live_jobs as j
union all
select
    f.id,
    f.task,
    f.state::text,
    f.schedule_type::text,
    f.queue,
    f.priority,
    nullif(f.run_at, 'infinity'),
    f.attempt,
    f.max_retries,
    f.payload,
    f.result,
    f.last_error,
    f.unique_key,
    f.name,
    f.worker,
    null,
    f.created_at,
    f.started_at,
    f.finished_at,
    f.scheduled_for,
    f.run,
    f.timeout,
    f.progress,
    f.cancel_requested_at,
    f.cancel_reason,
    f.headers,
    f.key,
    true
from rota.finished_jobs as f;

comment on view rota._all_stored_jobs is
    'The jobs, live and finished, each true in is_indexed.';

-- That condition is always true. To the planner it says of live jobs in which index they are, that
-- of lanes or that of what is counted, so that those of a queue are found in both. Within the view
-- above it would keep orders and joins from their indexes.
create or replace view rota._all_jobs as
select
    j.id,
    j.task,
    j.state,
    j.schedule_type,
    j.queue,
    j.priority,
    j.run_at,
    j.attempt,
    j.max_retries,
    j.payload,
    j.result,
    j.last_error,
    j.unique_key,
    j.name,
    j.worker,
    j.lease_until,
    j.created_at,
    j.started_at,
    j.finished_at,
    j.scheduled_for,
    j.run,
    j.timeout,
    j.progress,
    j.cancel_requested_at,
    j.cancel_reason,
    j.headers,
    j.key
from rota._all_stored_jobs as j
where j.is_indexed;

comment on view rota._all_jobs is
    'The jobs where there are no walls.';

create or replace view rota._walled_jobs with (security_barrier) as
select j.*
from rota._all_jobs as j
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or j.queue = any((select rota.visible_queues())::text[])
    )
order by j.id desc;

comment on view rota._walled_jobs is
    'The jobs where there are walls.';

create or replace view rota.jobs as
select * from rota._all_jobs;

comment on view rota.jobs is
    'Every job that is live or still kept.';

-- The types are those of the table that it was: statements that are prepared go on. The first
-- half are the attempts that completed a one-time job, as far as its row says so (0075).
create or replace view rota._all_job_executions as
select
    f.id as job_id,
    f.run,
    f.attempt,
    'SUCCEEDED'::rota.execution_outcome as outcome,
    f.worker,
    f.started_at,
    f.finished_at,
    null::text as error,
    f.result,
    f.scheduled_for,
    'COMPLETED'::rota.job_state as job_state,
    null::timestamptz as next_run_at
from rota.finished_jobs as f
where f.token is not null
union all
select
    a.job_id,
    a.run,
    a.attempt,
    a.outcome,
    a.worker,
    a.started_at,
    a.finished_at,
    a.error,
    a.result,
    a.scheduled_for,
    a.job_state,
    a.next_run_at
from rota.attempts as a;

comment on view rota._all_job_executions is
    'The attempts that ended, where there are no walls.';

create or replace view rota._walled_job_executions with (security_barrier) as
select e.*
from rota._all_job_executions as e
where (select rota.visible_queues()) is null
    or exists (select from rota._walled_jobs as j where j.id = e.job_id);

comment on view rota._walled_job_executions is
    'The attempts that ended, where there are walls.';

do $$
begin
    if exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = to_regclass('rota.job_executions') and a.attname = 'token'
    ) then
        -- The functions of before still use it; db/deploy.py applies this file once more. Until
        -- then it lacks the jobs that complete meanwhile: only a view of one table is written to.
        return;
    end if;

    create or replace view rota.job_executions as
    select * from rota._all_job_executions;
end;
$$;

comment on view rota.job_executions is
    'Every attempt that ended: what became of it, and of its job then.';

-- Its outcomes are plain text, so that a look for any but the successes leaves out the first part.
create or replace view rota._all_executions as
select
    f.id as job_id,
    f.run,
    f.attempt,
    'SUCCEEDED' as outcome,
    f.worker,
    f.started_at,
    f.finished_at,
    null::text as error,
    f.result,
    f.scheduled_for,
    'COMPLETED' as job_state,
    null::timestamptz as next_run_at
from rota.finished_jobs as f
where f.token is not null
union all
select
    a.job_id,
    a.run,
    a.attempt,
    a.outcome::text,
    a.worker,
    a.started_at,
    a.finished_at,
    a.error,
    a.result,
    a.scheduled_for,
    a.job_state::text,
    a.next_run_at
from rota.attempts as a
union all
select
    j.id,
    j.run::bigint,
    j.attempt,
    'RUNNING',
    j.worker,
    j.started_at,
    null,
    null,
    null,
    j.scheduled_for,
    j.state::text,
    null
from rota.live_jobs as j
where j.state = 'RUNNING';

comment on view rota._all_executions is
    'The attempts, ended or RUNNING, where there are no walls.';

create or replace view rota._walled_executions with (security_barrier) as
select e.*
from rota._all_executions as e
where (select rota.visible_queues()) is null
    or exists (select from rota._walled_jobs as j where j.id = e.job_id);

comment on view rota._walled_executions is
    'The attempts, ended or RUNNING, where there are walls.';

create or replace view rota.executions as
select * from rota._all_executions;

comment on view rota.executions is
    'Every attempt, ended or RUNNING.';

select rota._guard_views();

-- The state is that of the whole: RUNNING while any job is live, else the worst that any came to.
create or replace view rota.workflow_status with (security_barrier) as
select
    w.id,
    w.name,
    w.created_at,
    w.cancelled_at,
    c.waiting,
    c.scheduled,
    c.running,
    c.completed,
    c.failed,
    c.cancelled,
    case
        when c.waiting + c.scheduled + c.running > 0 then 'RUNNING'
        when c.failed > 0 then 'FAILED'
        when c.cancelled > 0 then 'CANCELLED'
        else 'COMPLETED'
    end as state
from rota.workflows as w
cross join lateral (
    select
        count(*) filter (where s.state = 'WAITING') as waiting,
        count(*) filter (where s.state = 'SCHEDULED') as scheduled,
        count(*) filter (where s.state = 'RUNNING') as running,
        count(*) filter (where s.state = 'COMPLETED') as completed,
        count(*) filter (where s.state = 'FAILED') as failed,
        count(*) filter (where s.state = 'CANCELLED') as cancelled,
        count(s.state) as seen
    from (
        select coalesce(j.state::text, f.state::text) as state
        from rota.workflow_jobs as n
        left join rota.live_jobs as j on j.id = n.job_id
        left join rota.finished_jobs as f on f.id = n.job_id
        where n.workflow_id = w.id
            and (
                (select rota.visible_queues()) is null
                or coalesce(j.queue::text, f.queue) = any((select rota.visible_queues())::text[])
            )
    ) as s
) as c
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and ((select rota.visible_queues()) is null or c.seen > 0);

comment on view rota.workflow_status is
    'Every workflow: how many of its jobs are in which state, and what is its own.';

-- waits_for are the parents from which an edge leads that is open: one that failed, let its child
-- run, and is tried again is not among them. A parent whose week was dropped is only an id.
create or replace view rota.workflow_nodes with (security_barrier) as
select
    n.workflow_id,
    n.node,
    n.job_id,
    coalesce(j.task::text, f.task) as task,
    coalesce(j.state::text, f.state::text) as state,
    coalesce(j.queue::text, f.queue) as queue,
    n.depends_on,
    n.if_parent_fails,
    case when j.state = 'WAITING'
        then array(
            select d.id
            from unnest(n.depends_on) as d(id)
            join rota.job_dependencies as e on e.parent_id = d.id and e.child_id = n.job_id
            order by d.id
        )
        else '{}'
    end as waits_for,
    n.ended_by
from rota.workflow_jobs as n
left join rota.live_jobs as j on j.id = n.job_id
left join rota.finished_jobs as f on f.id = n.job_id
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or coalesce(j.queue::text, f.queue) = any((select rota.visible_queues())::text[])
    );

comment on view rota.workflow_nodes is
    'Every job of a workflow, its state, and the jobs on which it depends.';

-- An edge goes when its parent ends. Who sees the child may know the id of the parent.
create or replace view rota.open_dependencies with (security_barrier) as
select
    d.parent_id,
    d.child_id,
    d.if_parent_fails
from rota.job_dependencies as d
join rota.live_jobs as j on j.id = d.child_id
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or j.queue = any((select rota.visible_queues())::text[])
    );

comment on view rota.open_dependencies is
    'Which live job waits for which: until the parent ends.';

create or replace view rota.schedule_status with (security_barrier) as
select
    j.id as job_id,
    j.name::text as name,
    j.task::text as task,
    j.payload,
    j.queue::text as queue,
    j.priority::integer as priority,
    j.max_retries::integer as max_retries,
    j.timeout::interval as timeout,
    j.schedule_type::text as schedule_type,
    s.every,
    s.cron,
    s.time_zone,
    s.starts_at,
    s.ends_at,
    s.max_runs,
    s.fixed_delay,
    s.jitter,
    s.misfire,
    s.misfire_cap,
    s.max_lateness,
    s.overlap,
    s.paused_at,
    j.state::text as state,
    j.run::bigint as run,
    j.scheduled_for,
    nullif(j.run_at::timestamptz, 'infinity') as run_at,
    j.last_error,
    j.created_at,
    j.headers,
    j.key::text as key
from rota.live_jobs as j
join rota.schedules as s on s.job_id = j.id
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or j.queue = any((select rota.visible_queues())::text[])
    );

comment on view rota.schedule_status is
    'Every live schedule: its definition, its present run, and the next.';

-- The jobs are counted in one pass over all of them, whose state no index may hold (see live_jobs);
-- where one queue is asked for, only its own are read, and who asks for no count has none counted.
-- These are found in two indexes (_all_jobs).
-- Jobs may have come to a queue while it was deleted: these have its marked lane.
create or replace view rota.queue_status with (security_barrier) as
select
    n.queue,
    q.paused_at,
    q.max_retries,
    q.backoff_base,
    q.backoff_cap,
    q.timeout,
    coalesce(c.scheduled, 0) as scheduled,
    coalesce(c.due, 0) as due,
    coalesce(c.running, 0) as running,
    c.oldest_due_at,
    q.max_running,
    q.max_starts,
    q.starts_period,
    q.key_max_running,
    q.key_max_starts,
    q.key_starts_period,
    q.key_in_order,
    coalesce(c.waiting, 0) as waiting,
    q.keep_completed,
    q.keep_failed
from (
    select l.queue from rota.lanes as l
    where l.retired_at is null
    union
    select q.name from rota.queues as q
    union
    select l.queue
    from rota.lanes as l
    cross join lateral (
        (
            select from rota.live_jobs as j
            where j.queue = l.queue and (j.counted and j.left_lane) is not true
            limit 1
        )
        union all
        (
            select from rota.live_jobs as j
            where j.queue = l.queue and j.counted
            limit 1
        )
    ) as one
    where l.retired_at is not null
) as n
left join (
    select
        j.queue::text as queue,
        count(*) filter (where j.state = 'SCHEDULED') as scheduled,
        count(*) filter (
            where j.state = 'SCHEDULED' and j.run_at <= statement_timestamp()
        ) as due,
        count(*) filter (where j.state = 'RUNNING') as running,
        min(j.run_at::timestamptz) filter (
            where j.state = 'SCHEDULED' and j.run_at <= statement_timestamp()
        ) as oldest_due_at,
        count(*) filter (where j.state = 'WAITING') as waiting
    from rota.live_jobs as j
    where (j.counted and j.left_lane) is not true or j.counted
    group by j.queue::text
) as c on c.queue = n.queue
left join rota.queues as q on q.name = n.queue
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or n.queue = any((select rota.visible_queues())::text[])
    );

comment on view rota.queue_status is
    'Every queue that has had a job or a setting, with what waits and runs in it now.';

create or replace view rota.key_limits with (security_barrier) as
select
    f.queue,
    f.key,
    f.max_running,
    f.max_starts,
    f.starts_period
from rota.flows as f
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or f.queue = any((select rota.visible_queues())::text[])
    )
    and f.key <> ''
    and num_nonnulls(f.max_running, f.max_starts, f.starts_period) > 0;

comment on view rota.key_limits is
    'Every key with limits of its own; where one is null, that of its queue holds.';

-- One probe of an index for each lane, past the jobs that run, so it may be asked every few
-- seconds. Where an old snapshot keeps the rows of ended jobs it has to read past those, too. Of
-- keys the first turn tells, and from when on it could be taken: one that is full waits for itself.
create or replace view rota.queue_heads with (security_barrier) as
select
    n.queue,
    s.paused_at,
    h.oldest_due_at
from (
    select l.queue from rota.lanes as l
    where l.retired_at is null
    union
    select q.name from rota.queues as q
) as n
cross join lateral (
    select min(d.run_at) as oldest_due_at
    from rota.lanes as l
    cross join lateral (
        (
            select j.run_at::timestamptz as run_at
            from rota.live_jobs as j
            where l.keyed is null
                and j.queue = l.queue
                and rota._lane(j.key, j.priority) = l.priority
                and (j.counted and j.left_lane) is not true
                and j.state = 'SCHEDULED'
                and j.run_at <= statement_timestamp()
            order by j.run_at, j.id
            limit 1
        )
        union all
        (
            select t.ready_at
            from rota.turns as t
            where l.keyed
                and t.queue = l.queue
                and t.priority = l.priority
                and t.ready_at <= statement_timestamp()
                and exists (
                    select from rota.live_jobs as j
                    where j.queue = t.queue
                        and rota._lane(j.key, j.priority) = rota._lane(t.key, t.priority)
                        and (j.counted and j.left_lane) is not true
                        and j.key = t.key
                        and j.state = 'SCHEDULED'
                        and j.run_at <= statement_timestamp()
                )
            order by t.ready_at
            limit 1
        )
    ) as d
    where l.queue = n.queue
) as h
left join rota.queues as s on s.name = n.queue
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or n.queue = any((select rota.visible_queues())::text[])
    );

comment on view rota.queue_heads is
    'Every queue, whether it is paused, and since when its first job is due, looked up now.';

create or replace view rota.worker_status with (security_barrier) as
select
    w.worker,
    w.host,
    w.pid,
    w.queues,
    w.concurrency,
    w.version,
    w.started_at,
    w.last_seen_at,
    w.stopped_at,
    coalesce(r.running, 0) as running,
    w.tasks,
    w.overrun,
    case when w.stopped_at is null then w.clock - w.last_seen_at end as clock_difference
from rota.workers as w
left join (
    select j.worker, count(*) as running
    from rota.live_jobs as j
    where j.state = 'RUNNING'
        and (
            (select rota.visible_queues()) is null
            or j.queue = any((select rota.visible_queues())::text[])
        )
    group by j.worker
) as r on r.worker = w.worker
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or w.queues <> '{}' and w.queues <@ (select rota.visible_queues())
    );

comment on view rota.worker_status is
    'Worker processes that announced themselves, with the number of jobs each runs now.';

-- Statistics: counted now and then (take_census, roll_up), so that to look costs nothing.
-- statistics_age() tells of when they are.
create or replace view rota.queue_census with (security_barrier) as
select
    c.queue,
    c.task,
    c.priority,
    c.scheduled,
    c.due,
    c.retrying,
    c.running,
    c.lost,
    c.overdue,
    c.oldest_due_at,
    c.lost_since,
    c.overdue_since,
    c.no_room,
    c.oldest_with_room_at,
    c.waiting
from rota.census as c
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or c.queue = any((select rota.visible_queues())::text[])
    );

comment on view rota.queue_census is
    'The live jobs by queue, task and priority, as the last census found them.';

create or replace view rota.worker_census with (security_barrier) as
select
    c.worker,
    c.queue,
    c.running,
    c.longest_running
from rota.census_workers as c
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or c.queue = any((select rota.visible_queues())::text[])
    );

comment on view rota.worker_census is
    'The jobs that run by worker and queue, as the last census found them.';

create or replace view rota.queue_depths with (security_barrier) as
select
    d.minute,
    d.seconds,
    d.queue,
    d.scheduled,
    d.due,
    d.running,
    d.oldest_due_seconds
from rota.depths as d
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or d.queue = any((select rota.visible_queues())::text[])
    );

comment on view rota.queue_depths is
    'How deep each queue was, minute by minute, and after 8 days the most of each hour.';

create or replace view rota.attempt_minutes with (security_barrier) as
select
    m.minute,
    m.seconds,
    m.queue,
    m.task,
    m.outcome,
    m.ended,
    m.gave_up,
    m.ran_seconds,
    m.firsts,
    m.waited_seconds,
    m.ran_histogram,
    m.waited_histogram
from rota.minutes as m
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or m.queue = any((select rota.visible_queues())::text[])
    );

comment on view rota.attempt_minutes is
    'The attempts that ended, by minute, after 8 days by hour, and by queue, task and outcome.';

create or replace view rota.attempt_totals with (security_barrier) as
select
    t.queue,
    t.task,
    t.outcome,
    t.ended,
    t.gave_up,
    t.ran_seconds,
    t.firsts,
    t.waited_seconds,
    t.ran_histogram,
    t.waited_histogram,
    t.first_counted_at
from rota.totals as t
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or t.queue = any((select rota.visible_queues())::text[])
    );

comment on view rota.attempt_totals is
    'The attempts that ended since they are counted, by queue, task and outcome.';

create or replace view rota.tokens with (security_barrier) as
select
    t.token_id,
    t.principal,
    t.prefix,
    t.note,
    t.created_at,
    t.created_by,
    t.expires_at,
    t.last_used_at,
    t.revoked_at
from rota.api_tokens as t
where coalesce( -- as _may_manage; the reader of a view must be allowed the functions in it
    (
        select pg_has_role(
                coalesce(nullif(current_setting('role'), 'none'), session_user), r.oid, 'MEMBER'
            )
            and not exists (
                select
                from pg_catalog.pg_roles as b
                where b.rolname = any((select rota.binding_principals())::text[])
                    and not pg_has_role(r.oid, b.oid, 'USAGE')
            )
        from pg_catalog.pg_roles as r
        where r.rolname = t.principal
    ),
    (select rota.binding_principals()) is null
);

comment on view rota.tokens is
    'The tokens of principals that the reader may be; of each its beginning, never the whole.';

create or replace view rota.actions with (security_barrier) as
select
    a.action_id,
    a.at,
    a.actor,
    a.on_behalf_of,
    a.function,
    a.job_id,
    a.queue,
    a.schedule,
    a.token_id,
    a.affected,
    a.details
from rota.action_log as a
where coalesce(cardinality((select rota.visible_queues())), 0) >= 0
    and (
        (select rota.visible_queues()) is null
        or a.queue = any((select rota.visible_queues())::text[])
    );

comment on view rota.actions is
    'What operators did: who, when, by which function, to what.';

create or replace view rota.walls with (security_barrier) as
select
    w.principal,
    w.queue_pattern,
    w.created_at
from rota.queue_walls as w
where (select rota.binding_principals()) is null
    or w.principal = any((select rota.binding_principals())::text[]);

comment on view rota.walls is
    'Which roles see and touch the queues of which patterns only.';

-- Tables last: whoever reads a view has locked it before its tables.
do $$
declare
    v_name text;
    v_view record;
    v_users text;
    v_right record;
begin
    for v_view in
        select c.oid, c.reltype, c.relname as old, left(c.relname, -7) as name
        from pg_catalog.pg_class as c
        where c.relnamespace = 'rota'::regnamespace
            and c.relkind = 'v'
            and right(c.relname, 7) = '_before'
    loop
        select string_agg(distinct u.name, ', ') into v_users
        from (
            select coalesce(r.ev_class::regclass::text, pg_describe_object(d.classid, d.objid, 0))
            from pg_catalog.pg_depend as d
            left join pg_catalog.pg_rewrite as r
                on d.classid = 'pg_catalog.pg_rewrite'::regclass and r.oid = d.objid
            where (d.refclassid, d.refobjid) in (
                    ('pg_catalog.pg_class'::regclass, v_view.oid),
                    ('pg_catalog.pg_type'::regclass, v_view.reltype)
                )
                and d.deptype = 'n'
                and r.ev_class is distinct from v_view.oid
        ) as u(name);

        if v_users is not null then
            raise exception 'the columns of rota.% change, but % depends on it', v_view.name,
                v_users
                using errcode = 'RTC05',
                      hint = 'Drop what depends on it, deploy again, and create it anew.';
        end if;

        for v_right in
            select distinct
                case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee,
                '(' || quote_ident(r.column_name) || ')' as columns,
                case when a.is_grantable then 'with grant option' end as option
            from (
                select null, c.relacl, c.relowner
                from pg_catalog.pg_class as c
                where c.oid = v_view.oid
                union all
                select t.attname, t.attacl, c.relowner
                from pg_catalog.pg_attribute as t
                join pg_catalog.pg_class as c on c.oid = t.attrelid
                where t.attrelid = v_view.oid and t.attname <> 'token'
            ) as r(column_name, acl, owner)
            cross join lateral aclexplode(r.acl) as a
            where a.grantee <> r.owner and a.privilege_type = 'SELECT'
        loop
            execute format(
                'grant select %s on rota.%I to %s %s',
                v_right.columns, v_view.name, v_right.grantee, v_right.option
            );
        end loop;

        execute format('drop view rota.%I', v_view.old);
    end loop;

    -- The weeks and indexes of rota.attempts that were made under its name of before. Whoever reads
    -- or writes them has locked their parent first.
    for v_name in
        select c.relname
        from pg_catalog.pg_class as c
        where c.relnamespace = 'rota'::regnamespace
            and left(c.relname, 15) = 'job_executions_'
            and c.relkind in ('r', 'i')
        order by c.relkind desc, c.relname
    loop
        lock table only rota.attempts in access exclusive mode;
        execute format(
            'alter table rota.%I rename to %I', v_name, 'attempts' || substr(v_name, 15)
        );
    end loop;
end;
$$;
