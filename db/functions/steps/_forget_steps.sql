-- As long as history is kept, and as long as the job or its run goes on. An event that somebody
-- waits for stays, as does the wait of a job that has not asked again; a name for which somebody
-- waited, and nobody emitted it, is left for a day.
create or replace function rota._forget_steps(older_than timestamptz, at timestamptz, most integer)
    returns integer
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_most integer := 0;
    v_count integer;
begin
    delete from rota.job_steps as s
    where s.ctid = any(array(
        select o.ctid
        from rota.job_steps as o
        where o.recorded_at < older_than
            and not exists (
                select
                from rota.live_jobs as j
                where j.id = o.job_id and rota._step_run(j.schedule_type, j.run) = o.run
            )
            and not exists (select from rota.finished_jobs as f where f.id = o.job_id)
        order by o.recorded_at
        limit most
    ));
    get diagnostics v_count = row_count;
    v_most := greatest(v_most, v_count);

    delete from rota.event_waits as w
    where w.ctid = any(array(
        select o.ctid
        from rota.event_waits as o
        where not exists (
            select
            from rota.live_jobs as j
            where j.id = o.job_id and rota._step_run(j.schedule_type, j.run) = o.run
        )
        limit most
        for update skip locked
    ));
    get diagnostics v_count = row_count;
    v_most := greatest(v_most, v_count);

    delete from rota.events as e
    where e.ctid = any(array(
        select o.ctid
        from rota.events as o
        where o.noted_at < case
                when o.emitted_at is null then at - interval '1 day' else older_than
            end
            and not exists (select from rota.event_waits as w where w.event = o.name)
        order by o.noted_at
        limit most
        for update skip locked
    ));
    get diagnostics v_count = row_count;

    return greatest(v_most, v_count);
end;
$$;

comment on function rota._forget_steps is
    'Remove old steps, and events and waits that nobody needs; return the most of one kind.';
