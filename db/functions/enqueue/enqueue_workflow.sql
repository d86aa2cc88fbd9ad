-- A graph in one document, all or nothing, committed with the caller's transaction. Existing jobs
-- on which new ones depend are held until then: one that is finishing is waited for, and what
-- became of it counts; one that would finish waits until what depends on it is there.
create or replace function rota.enqueue_workflow(jobs jsonb, name text default null)
    returns setof rota.enqueued_node
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if length(name) not between 1 and 200 or name ~ '[[:cntrl:]]' then
        raise exception 'name must have 1 to 200 characters and no control characters'
            using errcode = 'RTV01';
    end if;

    return query
    select n.* from rota._add_workflow(rota._read_workflow(jobs, 'jobs'), name, null) as n;
end;
$$;

comment on function rota.enqueue_workflow is
    'Add jobs that wait for one another: objects with enqueue_jobs'' keys and node, depends_on and'
    ' if_parent_fails; all or nothing, rows come in order.';
