-- Of the job's present run, and after its end of the last. Nothing is locked.
create or replace function rota.recorded_steps(job_id bigint)
    returns setof rota.recorded_step
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_run bigint;
begin
    perform rota._check_job(job_id);

    select rota._step_run(j.schedule_type, j.run) into v_run
    from rota.jobs as j
    where j.id = recorded_steps.job_id;

    if not found then
        perform rota._refuse_no_job(job_id);
    end if;

    return query
    select s.step, s.result, s.recorded_at
    from rota.job_steps as s
    where s.job_id = recorded_steps.job_id and s.run = v_run
    order by s.recorded_at, s.step collate "C";
end;
$$;

comment on function rota.recorded_steps is
    'Return the steps that a job has recorded so far, in their order.';
