-- What one column may hold is said by its domain (0001_types), what columns may hold together here.
-- The planner puts it in the place of its call. held counts what a lease consists of: token,
-- worker, lease_until and started_at.
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
        when state = 'WAITING' and (run_at < 'infinity' or schedule_type <> 'ONE_TIME')
            then 'what_waits_for_others_has_no_time'
        when schedule_type = 'ONE_TIME' and state <> 'WAITING' and not isfinite(run_at)
            then 'only_a_schedule_waits_for_ever'
        when schedule_type = 'ONE_TIME' and name is not null
            then 'only_a_schedule_is_named'
    end
$$;

comment on function rota._impossible_job is
    'Name the rule that a row of live_jobs breaks, or return null.';
