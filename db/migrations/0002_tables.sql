-- depends: 0001_types

-- One sequence for all jobs. A shard that must never collide with another sets its own
-- increment and start: alter sequence rota.job_ids increment by 16 restart with 3.
create sequence if not exists rota.job_ids as bigint;

-- SCHEDULED and RUNNING jobs only, so the table stays as small as the work that is left.
-- No index contains a column that a claim changes (state, token, worker, lease_until, attempt,
-- started_at), and more than half of each page is left free: a claim is then a heap-only-tuple
-- update, which writes no index. Every row lives to be updated and deleted, so autovacuum comes
-- for each 2 % of them and does not rest meanwhile.
--
-- Measured with 600,000 jobs waiting and 4,000 a second passing, for 45 seconds, autovacuum looking
-- every 3 (PostgreSQL 18):
--   fillfactor 40, 50, 100: 100, 74 and 0 % of claims heap-only; 1,353, 1,420 and 1,634 bytes of
--     WAL a job; 7.1, 7.3 and 9.2 ms for a claim of 1,000
--   a vacuum at 2 % dead rows, or at the default 20: the table grew by 9 or by 48 MiB
--   no cost delay, or the default 2 ms: 55 or 258 ms a vacuum
create table if not exists rota.live_jobs (
    id bigint not null default nextval('rota.job_ids'),
    task rota.task_name not null,
    payload jsonb not null,
    queue rota.queue_name not null,
    priority rota.priority not null,
    state rota.live_state not null default 'SCHEDULED',
    schedule_type rota.schedule_type not null default 'ONE_TIME',

    run_at rota.run_time not null,       -- not before this; 'infinity' while its schedule is paused
    scheduled_for timestamptz not null,  -- the slot it stands for; retries do not move it
    run rota.run_number not null default 1,  -- the occurrence; a retry by an operator is a new one
    attempt integer not null default 0,  -- charged at the claim, 0 again with each run
    max_retries rota.retries not null,
    timeout rota.timeout,
    unique_key rota.unique_key,
    name rota.schedule_name,

    token uuid,
    worker text,
    lease_until rota.lease_end,
    started_at timestamptz,
    progress jsonb,
    cancel_requested_at timestamptz,
    cancel_reason text,

    last_error text,
    created_at timestamptz not null,

    constraint live_jobs_pkey primary key (id),
    constraint running_iff_leased check (
        num_nonnulls(token, worker, lease_until, started_at)
            = case when state = 'RUNNING' then 4 else 0 end
    ),
    constraint only_a_running_job_waits_for_its_cancel check (
        cancel_requested_at is null or state = 'RUNNING'
    ),
    constraint attempt_within_max_retries check (attempt between 0 and max_retries + 1),
    constraint running_attempt_is_charged check (state = 'SCHEDULED' or attempt > 0),
    constraint only_a_schedule_waits_for_ever check (
        isfinite(run_at) or schedule_type <> 'ONE_TIME'
    ),
    constraint only_a_schedule_is_named check (name is null or schedule_type <> 'ONE_TIME')
) with (
    fillfactor = 40,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.2
);

create index if not exists live_jobs_by_lane
    on rota.live_jobs (queue, priority desc, run_at, id);

create unique index if not exists live_jobs_unique_key
    on rota.live_jobs (unique_key) where unique_key is not null;

create unique index if not exists live_jobs_name
    on rota.live_jobs (name) where name is not null;

-- The definition of an INTERVAL or CRON job, kept apart from its row in live_jobs, so that the
-- row which every run rewrites stays narrow. It outlives the job's end: an operator may retry it.
create table if not exists rota.schedules (
    job_id bigint primary key,
    every interval,
    cron text,
    time_zone text not null,
    starts_at timestamptz not null,  -- the grid of "every" is anchored here
    ends_at timestamptz,
    max_runs bigint,
    fixed_delay boolean not null,    -- "every" counts from the end of a run; there is no grid
    jitter interval not null,
    misfire text not null,
    misfire_cap integer not null,
    max_lateness interval,
    overlap text not null,
    paused_at timestamptz,
    trigger_requested_at timestamptz,

    constraint either_every_or_cron check (num_nonnulls(every, cron) = 1),
    constraint only_every_has_a_fixed_delay check (not fixed_delay or every is not null),
    constraint known_misfire check (misfire in ('skip', 'once', 'all')),
    constraint known_overlap check (overlap in ('coalesce', 'catch_up')),
    constraint misfire_cap_from_1_to_1000 check (misfire_cap between 1 and 1000),
    constraint max_runs_positive check (max_runs > 0),
    constraint jitter_not_negative check (jitter >= interval '0'),
    constraint max_lateness_positive check (max_lateness > interval '0'),
    constraint starts_at_is_finite check (isfinite(starts_at)),
    constraint ends_after_its_start check (ends_at > starts_at)
);

-- COMPLETED, FAILED and CANCELLED jobs, by the week in which they ended: retention drops a
-- partition instead of deleting rows. The default partition is a net for weeks that nobody
-- prepared (maintain moves what it caught), so a finish never fails for want of one.
create table if not exists rota.finished_jobs (
    id bigint not null,
    task text not null,
    payload jsonb not null,
    queue text not null,
    priority integer not null,
    state rota.ended_state not null,
    schedule_type rota.schedule_type not null,
    run_at timestamptz not null,
    scheduled_for timestamptz not null,
    run bigint not null,
    attempt integer not null,
    max_retries integer not null,
    timeout interval,
    unique_key text,
    name text,
    worker text,
    progress jsonb,
    cancel_requested_at timestamptz,
    cancel_reason text,
    last_error text,
    result jsonb,
    created_at timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz not null,

    constraint finished_jobs_pkey primary key (id, finished_at),
    constraint schedules_never_fail check (state <> 'FAILED' or schedule_type = 'ONE_TIME')
) partition by range (finished_at);

-- Failures are few and looked for; completed jobs are neither, and pay nothing for this index.
create index if not exists finished_jobs_not_completed
    on rota.finished_jobs (state, id) where state <> 'COMPLETED';

create table if not exists rota.finished_jobs_default
    partition of rota.finished_jobs default;

-- One row per attempt that ended, written once and never updated. job_state and next_run_at are
-- what its finisher was told, so that a repeated finish gets the same answer.
create table if not exists rota.job_executions (
    job_id bigint not null,
    run bigint not null,
    attempt integer not null,
    outcome rota.execution_outcome not null,
    worker text,
    token uuid,
    scheduled_for timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz not null,
    error text,
    result jsonb,
    job_state rota.job_state not null,
    next_run_at timestamptz,

    constraint attempted_unless_skipped check (
        (outcome = 'SKIPPED') = (token is null) and (token is null) = (started_at is null)
    )
) partition by range (finished_at);

do $$
begin
    if to_regclass('rota.attempts') is null then -- as 0010_attempts calls it
        create index if not exists job_executions_by_job
            on rota.job_executions (job_id, finished_at);

        create table if not exists rota.job_executions_default
            partition of rota.job_executions default;
    end if;
end;
$$;

-- Settings of a queue. A queue needs no row: without one the defaults hold.
create table if not exists rota.queues (
    name text primary key,
    paused_at timestamptz,
    max_retries integer,
    backoff_base interval,
    backoff_cap interval,
    timeout interval,

    constraint name_of_1_to_100_characters check (length(name) between 1 and 100),
    constraint max_retries_from_0_to_1000 check (max_retries between 0 and 1000),
    constraint backoff_base_positive check (backoff_base > interval '0'),
    constraint backoff_base_at_most_366_days check (backoff_base <= interval '366 days'),
    constraint backoff_cap_positive check (backoff_cap > interval '0'),
    constraint backoff_cap_at_most_366_days check (backoff_cap <= interval '366 days'),
    constraint timeout_positive check (timeout > interval '0')
);

-- The (queue, priority) pairs in use, which a claim walks with one index probe each. An enqueue
-- adds its pair when it sees none. There is no unique constraint on purpose: with one, the first
-- job of a lane, enqueued in a transaction that stays open, would block every other producer of
-- that lane. Copies are harmless; maintain removes them, and never the last one.
create table if not exists rota.lanes (
    queue text not null,
    priority integer not null
);

create index if not exists lanes_by_queue on rota.lanes (queue, priority desc);

-- One row per worker process. What an operator looks at; recovery does not depend on it.
create table if not exists rota.workers (
    worker text primary key,
    host text,
    pid integer,
    queues text[] not null,
    concurrency integer,
    version text,
    started_at timestamptz not null,
    last_seen_at timestamptz not null,
    stopped_at timestamptz
);

-- One row: how long finished jobs and executions are kept.
create table if not exists rota.settings (
    only_row boolean primary key default true,
    retention interval not null default interval '90 days',

    constraint there_is_one_row check (only_row),
    constraint retention_of_at_least_a_week check (retention >= interval '7 days')
);

insert into rota.settings default values on conflict do nothing;
