drop function if exists rota.enqueue_job(
    text, jsonb, text, timestamptz, integer, integer, interval, text
);

-- Committed with the caller's transaction, or not at all; works at every isolation level. With a
-- unique_key, the partial unique index decides: "on conflict do nothing" waits for a concurrent
-- holder's transaction to end, and then either inserts or finds the holder. The holder may have
-- ended between the two statements, hence the loop; each turn of it means that a job ended. At
-- REPEATABLE READ and above a holder newer than the snapshot raises 40001: retry the transaction.
-- Walls and the lane are looked for at once, for to open a table costs more than such a look, and
-- before the key is: to wait for its holder would tell of a job behind a wall. A lane that is seen
-- here may be marked by delete_queue before the job is in it; claims walk marked lanes, too.
create or replace function rota.enqueue_job(
    task text,
    payload jsonb default '{}',
    queue text default 'default',
    run_at timestamptz default null,
    priority integer default 0,
    max_retries integer default null,
    timeout interval default null,
    unique_key text default null,
    headers jsonb default null
)
    returns rota.enqueued_job
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._enqueue_time();
    v_run_at timestamptz := coalesce(run_at, v_now);
    v_complaint text := rota._bad_job(
        task, payload, queue, run_at, priority, max_retries, timeout, unique_key, headers
    );
    v_job rota.enqueued_job;
begin
    if v_complaint is not null then
        raise exception '%', v_complaint
            using errcode = 'RTV01';
    end if;

    if exists (select from rota.queue_walls) or not exists (
        select from rota.lanes as l
        where l.queue = enqueue_job.queue and l.priority = enqueue_job.priority
            and l.retired_at is null
    ) then
        perform rota._check_wall(queue);
        perform rota._use_lane(queue, priority);
    end if;

    loop
        insert into rota.live_jobs as j (
            task, payload, queue, priority, run_at, scheduled_for,
            max_retries, timeout, unique_key, created_at, headers
        )
        select
            enqueue_job.task,
            enqueue_job.payload,
            enqueue_job.queue,
            enqueue_job.priority,
            v_run_at,
            v_run_at,
            coalesce(enqueue_job.max_retries, q.max_retries, 3),
            coalesce(enqueue_job.timeout, q.timeout),
            enqueue_job.unique_key,
            v_now,
            nullif(enqueue_job.headers, '{}')
        from (select) as one
        left join rota.queues as q on q.name = enqueue_job.queue
        on conflict ((j.unique_key), (j.queue)) where j.unique_key is not null do nothing
        returning j.id, true into v_job;

        exit when v_job.created;

        select j.id, false into v_job
        from rota.live_jobs as j
        where j.unique_key = enqueue_job.unique_key and j.queue = enqueue_job.queue;

        exit when found;
    end loop;

    if v_job.created and rota._wake(queue, v_run_at, v_now) then
        null;
    end if;

    return v_job;
end;
$$;

comment on function rota.enqueue_job is
    'Add a ONE_TIME job, or return the live job of its queue that holds its unique_key already.';
