-- Workflows of which no job is left. Who would add to one holds a job of it.
create or replace function rota._forget_workflows(older_than timestamptz, most integer)
    returns integer
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids bigint[];
begin
    v_ids := array(
        select w.id
        from rota.workflows as w
        where w.created_at < older_than
            and not exists (
                select
                from rota.workflow_jobs as n
                where n.workflow_id = w.id
                    and (
                        exists (select from rota.live_jobs as j where j.id = n.job_id)
                        or exists (select from rota.finished_jobs as f where f.id = n.job_id)
                    )
            )
        order by w.created_at
        limit most
        for update of w skip locked
    );

    delete from rota.workflow_jobs as n
    where n.workflow_id = any(v_ids);

    delete from rota.workflows as w
    where w.id = any(v_ids);

    return cardinality(v_ids);
end;
$$;

comment on function rota._forget_workflows is
    'Remove what is known of workflows whose jobs are gone.';
