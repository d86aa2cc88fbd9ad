-- The finished row is locked, then its live one made (_retry_jobs); a call that comes second finds
-- the job live.
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
    from rota._retry_jobs(array[job_id], rota._enqueue_time()) as r
    where r.job_id = retry_job.job_id;

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

    if v_job.refusal = 'parent' then
        raise exception 'job % depends on job %, which did not complete; retry that one', job_id, (
            select min(p.id)
            from rota.workflow_jobs as w
            cross join lateral unnest(w.depends_on) as p(id)
            join rota.finished_jobs as f on f.id = p.id and f.state <> 'COMPLETED'
            where w.job_id = retry_job.job_id
        )
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

comment on function rota.retry_job is
    'Bring a FAILED or CANCELLED job back under its own id, with all its attempts, and the jobs'
    ' that were cancelled because of it.';
