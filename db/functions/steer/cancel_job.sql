-- A claim or a finish that came first is waited out, and what it made of the job decides
-- (_cancel_jobs). A job that is in neither table may be on its way back by retry_job, between our
-- two looks, so the looks are taken twice.
create or replace function rota.cancel_job(job_id bigint, reason text default null)
    returns rota.job_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_job rota.steered_job;
    v_state text;
begin
    perform from rota.queue_walls;

    if found then
        perform rota._check_job(job_id);
    end if;

    for v_look in 1..2 loop
        select c.* into v_job
        from rota._cancel_jobs(array[job_id], reason, v_now) as c;

        if found then
            perform rota._record_action(
                'cancel_job', v_job.job_id, v_job.queue,
                details => jsonb_build_object('reason', reason)
            );

            return row(v_job.job_id, v_job.state, null)::rota.job_outcome;
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

comment on function rota.cancel_job is
    'End a job that is scheduled or waits, with what depends on it; ask a running one to end.';
