-- Who may see a job may know what those came to on which it depends, whatever their queues. Parents
-- whose week was dropped have only their ids left. The row of the job itself is not needed, so the
-- results of a job that has ended can be asked for as long as its workflow is known.
create or replace function rota.parent_results(job_id bigint)
    returns setof rota.parent_result
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform rota._check_job(job_id);

    if not exists (
        select from rota.workflow_jobs as w where w.job_id = parent_results.job_id
    ) and not exists (select from rota.jobs as j where j.id = parent_results.job_id) then
        perform rota._refuse_no_job(job_id);
    end if;

    return query
    select
        p.id,
        n.node,
        coalesce(f.state::text, l.state::text),
        f.result,
        case when f.state is distinct from 'COMPLETED'
            then coalesce(f.last_error, l.last_error)
        end
    from rota.workflow_jobs as w
    cross join lateral unnest(w.depends_on) as p(id)
    left join rota.workflow_jobs as n on n.job_id = p.id
    left join rota.finished_jobs as f on f.id = p.id
    left join rota.live_jobs as l on l.id = p.id
    where w.job_id = parent_results.job_id
    order by p.id;
end;
$$;

comment on function rota.parent_results is
    'Return what became of the jobs on which this one depends.';
