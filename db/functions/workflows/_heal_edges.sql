-- Edges whose parent is no longer there, or has ended: a finish that began under functions which
-- did not know of edges, or a restore of some tables, leaves such. Nobody else does. A parent that
-- is gone from history counts as completed. Rows that somebody holds are left for the next call, as
-- is all that waits for them.
create or replace function rota._heal_edges(most integer)
    returns integer
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_parents bigint[];
    v_failed bigint[];
    v_reached bigint[];
begin
    perform rota._mend_edges(most);

    v_parents := array(
        select distinct d.parent_id
        from rota.job_dependencies as d
        where not exists (select from rota.live_jobs as j where j.id = d.parent_id)
        order by d.parent_id
        limit most
    );

    if v_parents = '{}' then
        return 0;
    end if;

    v_failed := array(
        select f.id
        from rota.finished_jobs as f
        where f.id = any(v_parents) and f.state <> 'COMPLETED'
    );

    -- Not one of them is waited for: what cannot be had at once is not settled now.
    v_reached := rota._reached(v_parents, v_failed);
    lock table only rota.finished_jobs in row exclusive mode;

    if cardinality(array(
        select w.job_id
        from rota.job_waits as w
        where w.job_id = any(v_reached)
        order by w.job_id
        for no key update skip locked
    )) < (select count(*) from rota.job_waits as w where w.job_id = any(v_reached)) then
        return 0;
    end if;

    perform rota._settle(v_parents, v_failed);

    return cardinality(v_parents);
end;
$$;

comment on function rota._heal_edges is
    'Settle what waits for jobs that are no longer live, and return how many these are.';
