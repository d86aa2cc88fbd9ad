-- For jobs that wait though no edge leads to them: a hand, or a restore of some tables, leaves
-- such, and nobody else does. Each gets its edges anew from the record of its workflow; those of
-- parents that have ended are settled by our caller. One of which nothing is recorded gets an edge
-- from job 0, which there never was, and so is let go.
--
-- Lock order as in _hold_jobs, but nobody is waited for: a job is left for the next call if it is
-- held, or a parent of it, or if one went from place to place between the looks.
create or replace function rota._mend_edges(most integer)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_children bigint[];
    v_family bigint[];
    v_held bigint[];
begin
    v_children := array(
        select w.job_id
        from rota.job_waits as w
        where not exists (
            select from rota.job_dependencies as d where d.child_id = w.job_id
        )
        order by w.job_id
        limit most
    );

    if v_children = '{}' then
        return;
    end if;

    v_family := v_children || array(
        select p.id
        from rota.workflow_jobs as w
        cross join lateral unnest(w.depends_on) as p(id)
        where w.job_id = any(v_children)
    );
    v_held := array(
        select j.id
        from rota.live_jobs as j
        where j.id = any(v_family) and j.state <> 'WAITING'
        order by j.id
        for no key update skip locked
    );
    lock table only rota.finished_jobs in row exclusive mode;
    v_held := v_held || array(
        select w.job_id
        from rota.job_waits as w
        where w.job_id = any(v_family)
        order by w.job_id
        for no key update skip locked
    );

    with edge as materialized (
        select c.id as child_id, p.id as parent_id, coalesce(w.if_parent_fails, 'run') as policy
        from unnest(v_children) as c(id)
        join rota.job_waits as j on j.job_id = c.id
        left join rota.workflow_jobs as w on w.job_id = c.id
        cross join lateral unnest(coalesce(nullif(w.depends_on, '{}'), '{0}')) as p(id)
        where c.id = any(v_held)
            and not exists (
                select from rota.job_dependencies as d where d.child_id = c.id
            )
            and not exists (
                select
                from unnest(w.depends_on) as o(id)
                join rota.live_jobs as l on l.id = o.id
                where l.id <> all(v_held)
            )
    ), edges as (
        insert into rota.job_dependencies (parent_id, child_id, if_parent_fails)
        select distinct e.parent_id, e.child_id, e.policy
        from edge as e
    ), marked as (
        update rota.live_jobs as j
        set linked = true
        where j.id = any(v_held)
            and j.id in (select e.parent_id from edge as e)
            and j.linked is null
    )
    update rota.job_waits as w
    set open = e.edges
    from (
        select e.child_id, count(distinct e.parent_id) as edges
        from edge as e
        group by e.child_id
    ) as e
    where w.job_id = e.child_id;
end;
$$;

comment on function rota._mend_edges is
    'Give jobs that wait, and to which nothing leads, their edges again.';
