-- The first write of a step counts: what is recorded never changes, and whoever records the step
-- again is told it. The lease is checked under the job's row lock, so a late worker records
-- nothing. What the caller writes to this database in the same transaction is done exactly once.
create or replace function rota.record_step(
    job_id bigint,
    token uuid,
    step text,
    result jsonb default null
)
    returns jsonb
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_run bigint;
    v_result jsonb;
begin
    perform rota._check_step('step', step);

    select rota._step_run(j.schedule_type, j.run) into v_run
    from rota.live_jobs as j
    where j.id = record_step.job_id and j.token = record_step.token
    for no key update;

    if not found then
        perform rota._refuse_lost_lease(job_id);
    end if;

    insert into rota.job_steps as s (job_id, run, step, result, recorded_at)
    values (record_step.job_id, v_run, record_step.step, record_step.result, rota._now())
    on conflict on constraint job_steps_pkey do nothing
    returning s.result into v_result;

    if not found then
        select s.result into v_result
        from rota.job_steps as s
        where s.job_id = record_step.job_id and s.run = v_run and s.step = record_step.step;
    end if;

    return v_result;
end;
$$;

comment on function rota.record_step is
    'Record the result of a step of a running job, unless there is one; return what is recorded.';
