-- Lock order: the workflow, then its jobs (_cancel_jobs), all in one call. Those that are to run
-- when others fail are ended with all the others. Jobs of other workflows that depend on one of
-- these follow as they do when it ends by itself.
create or replace function rota.cancel_workflow(workflow_id bigint, reason text default null)
    returns bigint
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_asked bigint;
    v_ended bigint;
begin
    perform rota._check_workflow(workflow_id);

    update rota.workflows as w
    set cancelled_at = coalesce(w.cancelled_at, v_now)
    where w.id = cancel_workflow.workflow_id;

    select count(*) filter (where c.state = 'CANCELLED'), count(*) into v_ended, v_asked
    from rota._cancel_jobs(
        array(
            select w.job_id
            from rota.workflow_jobs as w
            where w.workflow_id = cancel_workflow.workflow_id
        ),
        reason,
        v_now
    ) as c;

    perform rota._record_action(
        'cancel_workflow',
        affected => v_asked,
        details => jsonb_build_object('workflow_id', workflow_id, 'reason', reason)
    );

    return v_ended;
end;
$$;

comment on function rota.cancel_workflow is
    'End what waits of a workflow, ask what runs to end, and return how many jobs have ended.';
