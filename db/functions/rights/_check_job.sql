-- Before its row is locked: to wait for a lock would tell that there is such a job. History is not
-- opened for a job that is live, as nobody opens it who may wait for a row yet (docs/inside.md). A
-- job that is in neither table may be on its way back by retry_job, hence the last look.
create or replace function rota._check_job(job_id bigint)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_queue text;
begin
    perform from rota.queue_walls;

    if not found then
        return;
    end if;

    select j.queue into v_queue from rota.live_jobs as j where j.id = job_id;

    if not found then
        select f.queue into v_queue from rota.finished_jobs as f where f.id = job_id limit 1;
    end if;

    if not found then
        select j.queue into v_queue from rota.live_jobs as j where j.id = job_id;
    end if;

    if not found or not rota._sees_queue(v_queue) then
        perform rota._refuse_no_job(job_id);
    end if;
end;
$$;

comment on function rota._check_job is
    'Refuse a job that lies behind a wall of the caller, in the words of one that is not there.';
