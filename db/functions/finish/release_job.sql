-- Fenced and locked as in finish_job. A repeat after a lost reply gets the first answer, also when
-- a cancel had been asked for, which turns a release into the end of the job.
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

    return rota._released_before(job_id, token);
end;
$$;

comment on function rota.release_job is
    'Hand a running job back unfinished; the attempt is not charged.';
