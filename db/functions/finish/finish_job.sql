-- The fence is in _end_attempts, and in _complete_jobs, which is tried first for what most calls
-- are and costs less: only the (job, token) pair of a live lease ends an attempt, and a holder
-- whose lease has run out but was not taken back may still finish, for nobody else ran the job. A
-- pair that holds nothing changes nothing: either this very call was made before, and gets the
-- answer that the first one got, or it is late, and is told so.
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

comment on function rota.finish_job is
    'End a running attempt, with an error or without, and say what becomes of the job.';
