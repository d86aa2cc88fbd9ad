drop function if exists rota.enqueue_many(
    text, jsonb, text, timestamptz, integer, integer, interval, jsonb
);

-- Many jobs of one task: all is said once but the payloads, so all is checked once, and the
-- document is walked once. All or nothing, and ids come in the order of the payloads. A document,
-- not an array of jsonb, whose text costs more to read than its jobs to insert.
create or replace function rota.enqueue_many(
    task text,
    payloads jsonb,
    queue text default 'default',
    run_at timestamptz default null,
    priority integer default 0,
    max_retries integer default null,
    timeout interval default null,
    headers jsonb default null,
    key text default null
)
    returns setof rota.enqueued_job
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._enqueue_time();
    v_run_at timestamptz := coalesce(run_at, v_now);
    v_complaint text := rota._bad_job(
        task, '{}', queue, run_at, priority, max_retries, timeout, null, headers, key
    );
    v_queue rota.queues;
begin
    if v_complaint is null and (payloads is null or jsonb_typeof(payloads) <> 'array') then
        v_complaint := 'payloads must be a JSON array';
    end if;

    if v_complaint is not null then
        raise exception '%', v_complaint
            using errcode = 'RTV01';
    end if;

    perform rota._check_wall(queue);

    select q.* into v_queue
    from rota.queues as q
    where q.name = enqueue_many.queue;

    return query
        insert into rota.live_jobs as j (
            task, payload, queue, priority, run_at, scheduled_for, max_retries, timeout,
            created_at, headers, key
        )
        select
            enqueue_many.task,
            e.payload,
            enqueue_many.queue,
            enqueue_many.priority,
            v_run_at,
            v_run_at,
            coalesce(enqueue_many.max_retries, v_queue.max_retries, 3),
            coalesce(enqueue_many.timeout, v_queue.timeout),
            v_now,
            nullif(enqueue_many.headers, '{}'),
            enqueue_many.key
        from jsonb_array_elements(payloads) as e(payload)
        returning j.id, true;

    if found then
        perform rota._use_lane(queue, priority, key is not null);
        perform rota._wake(queue, v_run_at, v_now);
    end if;
end;
$$;

comment on function rota.enqueue_many is
    'Add a ONE_TIME job for each payload of an array, all or nothing; rows come in order.';
