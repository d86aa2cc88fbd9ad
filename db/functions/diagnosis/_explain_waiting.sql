-- All that blocks comes first, whatever it is, for one who mends one of two causes has mended none.
create or replace function rota._explain_waiting(
    job rota.live_jobs,
    at timestamptz,
    visible text[]
)
    returns setof rota.job_reason
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_is_walled constant boolean := visible is not null;
    v_paused_at timestamptz;
begin
    if job.state = 'WAITING' then
        return next rota._explain_parents(job, visible);
    elsif job.run_at > at then
        return query select t.* from rota._explain_time(job, at) as t;
    end if;

    select q.paused_at into v_paused_at
    from rota.queues as q
    where q.name = job.queue;

    if v_paused_at is not null then
        return next row(
            true,
            'QUEUE_PAUSED',
            format(
                'Its queue %s was paused %s ago.', job.queue, rota._rough_span(at - v_paused_at)
            ),
            format('select resume_queue(%L)', job.queue),
            jsonb_build_object('paused_at', v_paused_at)
        )::rota.job_reason;
    end if;

    if not exists (
        select
        from rota.lanes as l
        where l.queue = job.queue
            and l.priority = job.priority
            and (l.keyed is not null) = (job.key is not null)
    ) then
        return next row(
            true,
            'NO_LANE',
            format(
                'No claim looks for jobs of queue %s and priority %s%s: that lane is missing.',
                job.queue, job.priority, case when job.key is not null then ' with a key' end
            ),
            'select * from check_invariants(), which names all of them; enqueue one of that kind.',
            null
        )::rota.job_reason;
    end if;

    return query select t.* from rota._explain_lost_turn(job, at) as t;

    if job.run_at <= at then
        return query select m.* from rota._explain_limits(job, at, v_is_walled) as m;

        return query
            select l.*
            from rota._explain_lock(job, at, true, 'claims pass by it', v_is_walled) as l;
    end if;

    return query select s.* from rota._explain_service(job, at, visible) as s;

    if job.run_at <= at then
        return query select t.* from rota._explain_turns(job, at) as t;

        return query select o.* from rota._explain_order(job, at, v_is_walled) as o;
    end if;
end;
$$;

comment on function rota._explain_waiting is
    'Say what holds up a job that waits; no rows when the next claim takes it.';
