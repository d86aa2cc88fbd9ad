drop function if exists rota.enqueue_job(
    text, jsonb, text, timestamptz, integer, integer, interval, text, jsonb
);
drop function if exists rota.enqueue_job(
    text, jsonb, text, timestamptz, integer, integer, interval, text, jsonb, text
);

-- Committed with the caller's transaction, or not at all; works at every isolation level. With a
-- unique_key, the partial unique index decides: "on conflict do nothing" waits for a concurrent
-- holder's transaction to end, and then either inserts or finds the holder. The holder may have
-- ended between the two statements, hence the loop; each turn of it means that a job ended. At
-- REPEATABLE READ and above a holder newer than the snapshot raises 40001: retry the transaction.
-- Walls and the lane are looked for at once, for to open a table costs more than such a look, and
-- before the key is: to wait for its holder would tell of a job behind a wall. What is rarely asked
-- for is asked for there, too. A lane that is seen
-- here may be marked by delete_queue before the job is in it; claims walk marked lanes, too.
--
-- With unique_for or replace the row of the key in unique_keys comes first, and says under which id
-- the job is added (_take_unique_key, _replace_job). If a live job turns out to have the key
-- without them, that row is given back. What unique_key alone asks is about live_jobs only, and
-- costs no look at that table.
create or replace function rota.enqueue_job(
    task text,
    payload jsonb default '{}',
    queue text default 'default',
    run_at timestamptz default null,
    priority integer default 0,
    max_retries integer default null,
    timeout interval default null,
    unique_key text default null,
    headers jsonb default null,
    key text default null,
    unique_for interval default null,
    replace boolean default false
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
    v_complaint text;
    v_id bigint;
    v_job rota.enqueued_job;
begin
    if rota._bad_job(
        task, payload, queue, run_at, priority, max_retries, timeout, unique_key, headers, key
    ) is not null then
        raise exception '%', rota._bad_job(
            task, payload, queue, run_at, priority, max_retries, timeout, unique_key, headers, key
        )
            using errcode = 'RTV01';
    end if;

    if exists (select from rota.queue_walls) or unique_for is not null or replace or not exists (
        select from rota.lanes as l
        where l.queue = enqueue_job.queue and l.priority = enqueue_job.priority
            and (l.keyed is null) = (enqueue_job.key is null) and l.retired_at is null
    ) then
        perform rota._check_wall(queue);
        perform rota._use_lane(queue, priority, key is not null);
        v_complaint := rota._bad_unique_for(unique_key, unique_for, replace);

        if v_complaint is not null then
            raise exception '%', v_complaint
                using errcode = 'RTV01';
        end if;

        if replace then
            v_job := rota._replace_job(
                task, payload, queue, run_at, priority, max_retries, timeout, unique_key, headers,
                key, unique_for, v_now
            );
            v_run_at := least(v_run_at, rota._later(v_now, unique_for));
            unique_key := null;
        elsif unique_for is not null then
            v_job := rota._take_unique_key(queue, unique_key, unique_for, v_now);
        end if;

        if not v_job.created then
            return v_job;
        end if;

        v_id := v_job.job_id;
    end if;

    v_id := coalesce(v_id, nextval('rota.job_ids'));

    loop
        insert into rota.live_jobs as j (
            id, task, payload, queue, priority, run_at, scheduled_for,
            max_retries, timeout, unique_key, created_at, headers, key
        )
        select
            v_id,
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
            nullif(enqueue_job.headers, '{}'),
            enqueue_job.key
        from (select) as one
        left join rota.queues as q on q.name = enqueue_job.queue
        on conflict ((j.unique_key), (j.queue)) where j.unique_key is not null do nothing
        returning j.id, true into v_job;

        if v_job.created is true and rota._wake(queue, v_run_at, v_now) then  -- which always is
            return v_job;
        end if;

        select j.id, false into v_job
        from rota.live_jobs as j
        where j.unique_key = enqueue_job.unique_key
            and j.queue || '' = enqueue_job.queue; -- by the index of keys, not of lanes

        exit when found;
    end loop;

    if unique_for is not null and v_id <> v_job.job_id then
        delete from rota.unique_keys as u
        where u.queue = enqueue_job.queue
            and u.unique_key = enqueue_job.unique_key
            and u.job_id = v_id;
    end if;

    return v_job;
end;
$$;

comment on function rota.enqueue_job is
    'Add a ONE_TIME job, or return the live job of its queue that holds its unique_key already.';
