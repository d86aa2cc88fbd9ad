-- Before its row is locked: to wait for a lock would tell that there is such a job. History is not
-- opened for a job that is live, as nobody opens it who may wait for a row yet (docs/inside.md). A
-- job that is in neither table may be on its way back by retry_job, hence the last look.
-- A job behind a wall is refused after as many looks as one that is missing, so that how long it
-- took tells nothing either.
create or replace function rota._check_job(job_id bigint)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_queues text[];
begin
    perform from rota.queue_walls;

    if not found then
        return;
    end if;

    v_queues := rota.visible_queues();

    for v_look in 1..2 loop
        perform
        from rota.live_jobs as j
        where j.id = job_id and (v_queues is null or j.queue = any(v_queues));

        if found then
            return;
        end if;

        if v_look = 1 then
            perform
            from rota.finished_jobs as f
            where f.id = job_id and (v_queues is null or f.queue = any(v_queues));

            if found then
                return;
            end if;
        end if;
    end loop;

    perform rota._refuse_no_job(job_id);
end;
$$;

comment on function rota._check_job is
    'Refuse a job that lies behind a wall of the caller, in the words of one that is not there.';
