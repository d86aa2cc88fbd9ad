drop function if exists rota.finish_job(bigint, uuid, text, jsonb, interval, boolean);

-- The fence is in _end_attempts, and in _complete_jobs, which is tried first for what most calls
-- are and costs less: only the (job, token) pair of a live lease ends an attempt, and a holder
-- whose lease has run out but was not taken back may still finish, for nobody else ran the job. A
-- pair that holds nothing changes nothing: either this very call was made before, and gets the
-- answer that the first one got, or it is late, and is told so.
--
-- next is a workflow (enqueue_workflow), added if and only if this call ends the attempt and the
-- attempt succeeded: so a call that is repeated adds nothing. It is read before anything is locked,
-- and what it depends on is locked with our job (_hold_next).
create or replace function rota.finish_job(
    job_id bigint,
    token uuid,
    error text default null,
    result jsonb default null,
    retry_in interval default null,
    retry boolean default true,
    next jsonb default null
)
    returns rota.job_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_outcome rota.job_outcome;
    v_next rota.workflow_item[];
    v_recurring boolean;
begin
    perform rota._check_delay('retry_in', retry_in);

    if next <> '[]' then
        v_next := rota._read_workflow(next, 'next');
        v_recurring := rota._hold_next(v_next, job_id, token);
    end if;

    if error is null and retry_in is null
        and rota._complete_jobs(array[job_id], array[token], array[result])
    then
        if v_next is not null then
            perform
            from rota._add_workflow(v_next, null, job_id);
        end if;

        return row(job_id, 'COMPLETED', null)::rota.job_outcome;
    end if;

    select e.job_id, e.state, e.run_at into v_outcome
    from rota._end_attempts(
        array[job_id], array[token], array[error], array[result],
        retry_in => retry_in, retry => coalesce(retry, true)
    ) as e;

    if found then
        if v_next is not null and error is null and v_outcome.state in ('COMPLETED', 'SCHEDULED')
        then
            perform
            from rota._add_workflow(
                v_next, null, case when not v_recurring then finish_job.job_id end
            );
        end if;

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

comment on function rota.finish_job is
    'End a running attempt, with an error or without, and say what becomes of the job; add the jobs'
    ' of next if it succeeded.';
