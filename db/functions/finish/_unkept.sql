-- What a workflow or an edge knows is kept, for its result may be asked for. Whoever makes a job
-- one on which another depends marks its row, which the caller has locked.
create or replace function rota._unkept(held tid[])
    returns tid[]
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select j.ctid
        from rota.live_jobs as j
        where j.ctid = any(held)
            and j.unkept
            and j.linked is null
            and not exists (select from rota.workflow_jobs as w where w.job_id = j.id)
    );
end;
$$;

comment on function rota._unkept is
    'Name those of these rows of live_jobs of which nothing is kept when they complete.';
