-- What the end of a job means to those that wait for it. Called in the transaction, and by the
-- function, that ends the jobs, after their rows in live_jobs were locked.
--
-- Why it is exact. Each WAITING job has one row in job_waits, and nobody changes the job or its
-- count but under that row's lock; an edge is deleted when it is settled, so it counts once. Of two
-- last parents the second waits for the first one's commit, counts on from what that left, and only
-- one comes to the end of the edges. Who adds an edge to a live job holds that job's row until he
-- commits (_hold_jobs), so our caller waited for him; the statements here have younger snapshots,
-- and see the edge. If this process dies on any line, nothing has happened: the parents run still.
--
-- What is free to run is scheduled for a time that is read in a transaction with an id, as an
-- enqueue does (_enqueue_time), so that a claim's cursor overlooks none of it. Those that have keys
-- get their turns by the trigger of the table.
--
-- All that a failure can reach is locked at once, in the order of ids, before any of it is changed;
-- what it cancels takes down what hangs on it in the next turn of the loop.
create or replace function rota._settle(job_ids bigint[], failed bigint[])
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_ended bigint[] := job_ids;
    v_failed bigint[] := failed;
    v_children bigint[];
    v_edges bigint[];
    v_free bigint[];
    v_queues text[];
    v_run_ats timestamptz[];
    v_doomed bigint[];
    v_causes bigint[];
begin
    if failed <> '{}' then
        perform rota._hold_waits(rota._reached(job_ids, failed));
    else
        perform rota._hold_waits(array(
            select d.child_id
            from rota.job_dependencies as d
            where d.parent_id = any(job_ids)
        ));
    end if;

    loop
        with gone as (
            delete from rota.job_dependencies as d
            where d.parent_id = any(v_ended)
            returning
                d.child_id,
                case
                    when d.if_parent_fails = 'cancel'
                            and d.parent_id in (select f.id from unnest(v_failed) as f(id))
                        then d.parent_id
                end as cause
        )
        select
            array_agg(s.child_id) filter (where s.cause is null),
            array_agg(s.edges) filter (where s.cause is null),
            array_agg(s.child_id) filter (where s.cause is not null),
            array_agg(s.cause) filter (where s.cause is not null)
        into v_children, v_edges, v_doomed, v_causes
        from (
            select g.child_id, count(*) as edges, min(g.cause) as cause
            from gone as g
            group by g.child_id
        ) as s;

        if v_children is not null then
            with freed as (
                delete from rota.job_waits as w
                using unnest(v_children, v_edges) as c(id, edges)
                where w.job_id = any(v_children) and w.job_id = c.id and w.open = c.edges
                returning w.job_id
            )
            select array_agg(f.job_id) into v_free
            from freed as f;

            if v_free is null or cardinality(v_free) < cardinality(v_children) then
                update rota.job_waits as w
                set open = w.open - c.edges
                from unnest(v_children, v_edges) as c(id, edges)
                where w.job_id = any(v_children) and w.job_id = c.id;
            end if;
        end if;

        if v_free is not null then
            v_now := rota._enqueue_time();

            with freed as (
                update rota.live_jobs as j
                set state = 'SCHEDULED',
                    run_at = greatest(j.scheduled_for, v_now)
                where j.id = any(v_free)
                returning j.queue, j.run_at
            )
            select array_agg(f.queue), array_agg(f.run_at) into v_queues, v_run_ats
            from freed as f;

            perform rota._wake(q.queue, q.first_run_at, v_now)
            from (
                select f.queue, min(f.run_at) as first_run_at
                from unnest(v_queues, v_run_ats) as f(queue, run_at)
                group by f.queue
            ) as q;

            v_free := null;
        end if;

        exit when v_doomed is null;

        perform rota._retire_waiting(v_doomed, v_causes, null, v_now);
        v_ended := v_doomed;
        v_failed := v_doomed;
    end loop;
end;
$$;

comment on function rota._settle is
    'Let the jobs that waited for these run, or cancel them, now that these have ended, failed or'
    ' not.';
