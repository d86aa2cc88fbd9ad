-- The words of Rota: its states, its outcomes, and the shapes of rows that functions return.
-- States are domains over text, so that a label can be added or removed in a transaction and an
-- expression that yields one needs no cast. "create type" knows no "if not exists"; a file may be
-- run twice (see db/deploy.py), hence the guards.

do $$
begin
    if to_regtype('rota.job_state') is null then
        create domain rota.job_state as text
            constraint known_state
            check (value in ('SCHEDULED', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED'));
    end if;

    if to_regtype('rota.schedule_type') is null then
        create domain rota.schedule_type as text
            constraint known_schedule_type
            check (value in ('ONE_TIME', 'INTERVAL', 'CRON'));
    end if;

    -- What one column may hold is said by a domain, not by a CHECK of its table, where the table
    -- is a hot one: a session reads a domain's rule once, a table's again with each statement.
    -- Measured: 77 us for the insert of one job with 17 CHECKs, 54 with the 6 that remain.
    if to_regtype('rota.live_state') is null then
        create domain rota.live_state as rota.job_state
            constraint live_means_not_ended check (value in ('SCHEDULED', 'RUNNING'));
    end if;

    if to_regtype('rota.ended_state') is null then
        create domain rota.ended_state as rota.job_state
            constraint finished_means_ended
            check (value in ('COMPLETED', 'FAILED', 'CANCELLED'));
    end if;

    if to_regtype('rota.task_name') is null then
        create domain rota.task_name as text
            constraint task_of_1_to_200_characters check (length(value) between 1 and 200);
    end if;

    if to_regtype('rota.queue_name') is null then
        create domain rota.queue_name as text
            constraint queue_of_1_to_100_characters check (length(value) between 1 and 100);
    end if;

    if to_regtype('rota.unique_key') is null then
        create domain rota.unique_key as text
            constraint unique_key_of_1_to_500_characters check (length(value) between 1 and 500);
    end if;

    if to_regtype('rota.schedule_name') is null then
        create domain rota.schedule_name as text
            constraint name_of_1_to_200_characters check (length(value) between 1 and 200);
    end if;

    if to_regtype('rota.priority') is null then
        create domain rota.priority as integer
            constraint priority_from_minus_100_to_100 check (value between -100 and 100);
    end if;

    if to_regtype('rota.retries') is null then
        create domain rota.retries as integer
            constraint max_retries_from_0_to_1000 check (value between 0 and 1000);
    end if;

    if to_regtype('rota.timeout') is null then
        create domain rota.timeout as interval
            constraint timeout_positive check (value > interval '0');
    end if;

    if to_regtype('rota.run_number') is null then
        create domain rota.run_number as bigint
            constraint run_from_one check (value > 0);
    end if;

    if to_regtype('rota.run_time') is null then
        create domain rota.run_time as timestamptz
            constraint run_at_not_before_all_time check (value > '-infinity');
    end if;

    if to_regtype('rota.lease_end') is null then
        create domain rota.lease_end as timestamptz
            constraint lease_is_finite check (isfinite(value));
    end if;

    if to_regtype('rota.execution_outcome') is null then
        create domain rota.execution_outcome as text
            constraint known_outcome
            check (value in (
                'SUCCEEDED',  -- the handler returned
                'FAILED',     -- the handler reported an error
                'TIMED_OUT',  -- the same, after the job's timeout had passed
                'LOST',       -- the lease ran out and another session took the job back
                'CANCELLED',  -- it ended, in whatever way, after a cancel was asked for
                'RELEASED',   -- handed back unfinished; the attempt was not charged
                'SKIPPED'     -- slots of a schedule that were given up without running
            ));
    end if;

    if to_regtype('rota.enqueued_job') is null then
        create type rota.enqueued_job as (job_id bigint, created boolean);
    end if;

    if to_regtype('rota.claimed_job') is null then
        create type rota.claimed_job as (
            id bigint,
            token uuid,
            task text,
            payload jsonb,
            queue text,
            priority integer,
            attempt integer,
            max_retries integer,
            scheduled_for timestamptz,
            lease_until timestamptz,
            timeout interval
        );
    end if;

    if to_regtype('rota.job_outcome') is null then
        create type rota.job_outcome as (job_id bigint, state text, run_at timestamptz);
    end if;

    if to_regtype('rota.ended_attempt') is null then
        create type rota.ended_attempt as (
            job_id bigint,
            token uuid,
            state text,
            run_at timestamptz
        );
    end if;

    if to_regtype('rota.finish_outcome') is null then
        create type rota.finish_outcome as (job_id bigint, outcome text);
    end if;

    if to_regtype('rota.lease') is null then
        create type rota.lease as (lease_until timestamptz, cancel_requested boolean);
    end if;

    if to_regtype('rota.job_lease') is null then
        create type rota.job_lease as (
            job_id bigint,
            lease_until timestamptz,
            cancel_requested boolean
        );
    end if;

    if to_regtype('rota.broken_invariant') is null then
        create type rota.broken_invariant as (invariant text, job_id bigint, detail text);
    end if;

    -- A slot, and when its run may start: later by its jitter, or 'infinity' while paused.
    if to_regtype('rota.next_slot') is null then
        create type rota.next_slot as (slot timestamptz, run_at timestamptz);
    end if;

    -- How many slots there are, and the last of them.
    if to_regtype('rota.slot_list') is null then
        create type rota.slot_list as (number bigint, last_ones timestamptz[]);
    end if;

    -- A position in one lane of waiting jobs, kept in a setting of a session (claim_next_job).
    if to_regtype('rota.lane_cursor') is null then
        create type rota.lane_cursor as (
            queue text,
            priority integer,
            run_at timestamptz,
            id bigint,
            made_at timestamptz,
            expires_at timestamptz
        );
    end if;
end;
$$;
