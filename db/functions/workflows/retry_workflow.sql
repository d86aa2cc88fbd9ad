-- Lock order: the workflow, then its jobs (_retry_jobs), all in one call. What completed stays as
-- it is, and is not run again.
create or replace function rota.retry_workflow(workflow_id bigint)
    returns bigint
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._enqueue_time();
    v_revived bigint;
begin
    perform rota._check_workflow(workflow_id);

    update rota.workflows as w
    set cancelled_at = null
    where w.id = retry_workflow.workflow_id;

    select count(*) filter (where r.refusal is null) into v_revived
    from rota._retry_jobs(
        array(
            select w.job_id
            from rota.workflow_jobs as w
            where w.workflow_id = retry_workflow.workflow_id
        ),
        v_now
    ) as r;

    perform rota._record_action(
        'retry_workflow',
        affected => v_revived,
        details => jsonb_build_object('workflow_id', workflow_id)
    );

    return v_revived;
end;
$$;

comment on function rota.retry_workflow is
    'Bring back the jobs of a workflow that failed or were cancelled, and return how many.';
