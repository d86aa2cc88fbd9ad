-- Who steers a workflow as a whole must see all of it.
create or replace function rota._check_workflow(workflow_id bigint)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_queues text[];
begin
    perform
    from rota.workflows as w
    where w.id = workflow_id;

    if found then
        perform from rota.queue_walls;

        if not found then
            return;
        end if;

        v_queues := rota.visible_queues();

        perform
        from rota.workflow_jobs as w
        left join rota.live_jobs as j on j.id = w.job_id
        left join rota.finished_jobs as f on f.id = w.job_id
        where w.workflow_id = _check_workflow.workflow_id
            and coalesce(j.queue, f.queue) <> all(v_queues)
        limit 1;

        if not found then
            return;
        end if;
    end if;

    raise exception 'there is no workflow %', coalesce(workflow_id::text, 'null')
        using errcode = 'RTN01';
end;
$$;

comment on function rota._check_workflow is
    'Refuse a workflow that is not there, or of which the caller may not see all jobs.';
