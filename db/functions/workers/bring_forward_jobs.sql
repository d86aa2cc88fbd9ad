-- Only jobs that wait because no worker which met them had a handler, by the mark that they were
-- given (release_unhandled_jobs): never a retry, a release with a delay of a handler's own, or a
-- job for later. They become due now, behind what is due already; a slot of a schedule is not late
-- by having waited for this.
-- Rows that somebody has locked are passed by. The lock checks on the newest version of a job that
-- it waits still. Lock order: the jobs' rows by id, then the marks, neither waited for.
-- Wakes nobody: workers without a handler might come first. Whoever calls this claims next.
create or replace function rota.bring_forward_jobs(
    queues text[],
    tasks text[],
    max_jobs integer default 1000
)
    returns integer
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_ids bigint[];
    v_waiting tid[];
begin
    if queues is null or tasks is null then
        raise exception 'queues and tasks must not be null'
            using errcode = 'RTV01';
    end if;

    if max_jobs is null or max_jobs not between 1 and 10000 then
        raise exception 'max_jobs must be from 1 to 10000, not %', coalesce(max_jobs::text, 'null')
            using errcode = 'RTV01';
    end if;

    perform from rota.queue_walls;

    if found then
        queues := rota._within_walls(queues);
    end if;

    delete from rota.unhandled_jobs as m
    where m.ctid = any(array(
        select p.ctid
        from rota.unhandled_jobs as p
        where p.task = any(tasks)
            and p.queue in (select * from unnest(queues))
            and p.until <= v_now
        for update skip locked
    ));

    v_ids := array(
        select m.job_id
        from rota.unhandled_jobs as m
        where m.task = any(tasks) and m.queue in (select * from unnest(queues))
        order by m.job_id
        limit max_jobs
    );

    v_waiting := array(
        select j.ctid
        from rota.live_jobs as j
        join rota.unhandled_jobs as m on m.job_id = j.id and m.until = j.run_at
        where j.id = any(v_ids)
            and j.state = 'SCHEDULED'
            and j.run_at > v_now
        order by j.id
        for no key update of j skip locked
    );

    update rota.live_jobs as j
    set run_at = v_now
    where j.ctid = any(v_waiting);

    delete from rota.unhandled_jobs as m
    where m.ctid = any(array(
        select p.ctid
        from rota.unhandled_jobs as p
        where p.job_id = any(v_ids)
            and not exists (
                select
                from rota.live_jobs as j
                where j.id = p.job_id and j.run_at = p.until
            )
        for update of p skip locked
    ));

    return cardinality(v_waiting);
end;
$$;

comment on function rota.bring_forward_jobs is
    'Make jobs due now that wait only for a worker with a handler for their task; return how many.';
