-- Before any of them is locked: to wait for a job would tell that there is one.
create or replace function rota._check_parents(job_ids bigint[])
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform from rota.queue_walls;

    if found then
        perform rota._check_job(p.id)
        from unnest(job_ids) as p(id);
    end if;
end;
$$;

comment on function rota._check_parents is
    'Refuse jobs on which others are to depend, and that lie behind a wall of the caller.';
