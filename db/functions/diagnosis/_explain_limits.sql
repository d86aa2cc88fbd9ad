-- Limits that keep a due job from being claimed, asked as claims ask (_queue_room, _room_of_keys),
-- but without their locks: so what is said is of one snapshot. Who sees the job sees all of its
-- queue, so jobs of that are named behind a wall, too; sessions are not.
create or replace function rota._explain_limits(
    job rota.live_jobs,
    at timestamptz,
    is_walled boolean
)
    returns setof rota.job_reason
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_queue rota.queues;
    v_key rota.flows;
    v_window rota.flows;
    v_lock rota.flow_locks;
    v_head record;
begin
    select q.* into v_queue
    from rota.queues as q
    where q.name = job.queue and (q.limited & 1 > 0 or q.limited > 0 and job.key is not null);

    if not found then
        return;
    end if;

    select l.* into v_lock
    from rota.flow_locks as l
    where l.queue = job.queue and l.number = -1 and not l.settled;

    if found then
        return query
            select r.* from rota._explain_unsettled(job.queue, v_lock.open_before, is_walled) as r;
    end if;

    select f.* into v_window
    from rota.flows as f
    where f.queue = job.queue and f.key = '';

    return query
        select r.*
        from rota._explain_room(
            job.queue, null, v_queue.max_running, v_queue.max_starts, v_queue.starts_period,
            v_window.cells, v_window.starts, at
        ) as r;

    if job.key is null then
        return;
    end if;

    select f.* into v_key
    from rota.flows as f
    where f.queue = job.queue and f.key = job.key;

    return query
        select r.*
        from rota._explain_room(
            job.queue,
            job.key,
            coalesce(v_key.max_running, v_queue.key_max_running),
            coalesce(v_key.max_starts, v_queue.key_max_starts),
            coalesce(v_key.starts_period, v_queue.key_starts_period),
            v_key.cells,
            v_key.starts,
            at
        ) as r;

    if v_queue.key_in_order is not true then
        return;
    end if;

    select o.id, o.state::text as state, o.run_at::timestamptz as run_at into v_head
    from rota.live_jobs as o
    where o.queue = job.queue
        and o.key = job.key
        and o.counted
        and o.state in ('RUNNING', 'SCHEDULED')
    order by o.state = 'RUNNING' desc, o.scheduled_for, o.id
    limit 1;

    if v_head.id <> job.id then
        return next row(
            true,
            'IN_ORDER',
            format(
                'It waits for job %s of its key %s, which %s: they run one by one, in order.',
                v_head.id,
                job.key,
                case
                    when v_head.state = 'RUNNING' then 'runs'
                    when v_head.run_at = 'infinity' then 'has begun, and is paused'
                    when v_head.run_at > at then
                        'has begun, and goes on in ' || rota._rough_span(v_head.run_at - at)
                    else 'has begun, and is due again'
                end
            ),
            format('select * from explain_job(%s)', v_head.id),
            jsonb_build_object('key', job.key, 'job', v_head.id, 'state', v_head.state)
        )::rota.job_reason;
    end if;
end;
$$;

comment on function rota._explain_limits is
    'Say which limits keep a job that is due from being claimed.';
