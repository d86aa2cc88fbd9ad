-- Times and intervals in the document are read the same way in every session. A misspelt key must
-- not be a job that silently lacks an option. All or nothing: every job is checked before the
-- first is written, and one statement writes all that have no unique_key. Those that have one go
-- through enqueue_job in the order of their keys and queues, so that two bulks which share keys
-- wait for each other and never deadlock. The text is read under an exception block that writes
-- nothing, so it costs no transaction id; only when a value does not convert is the offending job
-- looked for, one by one. A payload that is null in JSON comes out of the array like one that is
-- left out; only where there is one are their places looked up.
create or replace function rota.enqueue_jobs(jobs jsonb)
    returns setof rota.enqueued_job
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
    set datestyle = 'ISO, YMD'
    set intervalstyle = 'postgres'
as $$
declare
    v_now timestamptz := rota._enqueue_time();
    v_complaint text;
    v_null_payloads bigint[];
    v_ids bigint[];
    v_created boolean[];
    v_keyed record;
    v_job rota.enqueued_job;
begin
    if jobs is null or jsonb_typeof(jobs) <> 'array' then
        raise exception 'jobs must be a JSON array of objects'
            using errcode = 'RTV01';
    end if;

    begin
        select format('jobs[%s]: %s is not an argument of enqueue_job', o.place - 1, k.key)
        into v_complaint
        from (
            select
                e.place,
                e.job - array[
                    'task', 'payload', 'queue', 'run_at',
                    'priority', 'max_retries', 'timeout', 'unique_key', 'headers', 'key',
                    'unique_for', 'replace'
                ] as unknown
            from jsonb_array_elements(jobs) with ordinality as e(job, place)
        ) as o
        cross join lateral jsonb_object_keys(o.unknown) as k(key)
        where o.unknown <> '{}'
        order by o.place, k.key collate "C"
        limit 1;

        if not found then
            select format('jobs[%s]: %s', i.place - 1, i.complaint) into v_complaint
            from (
                select
                    t.place,
                    coalesce(
                        rota._bad_job(
                            t.task,
                            coalesce(t.payload, '{}'),
                            coalesce(t.queue, 'default'),
                            t.run_at,
                            coalesce(t.priority, 0),
                            t.max_retries,
                            t.timeout,
                            t.unique_key,
                            t.headers,
                            t.key
                        ),
                        case when t.unique_for is not null or t.replace
                            then rota._bad_unique_for(t.unique_key, t.unique_for, t.replace)
                        end
                    ) as complaint
                from rows from (
                    jsonb_to_recordset(jobs) as (
                        task text, payload jsonb, queue text, run_at timestamptz,
                        priority integer, max_retries integer, timeout interval, unique_key text,
                        headers jsonb, key text, unique_for interval, replace boolean
                    )
                ) with ordinality as t(
                    task, payload, queue, run_at, priority, max_retries, timeout, unique_key,
                    headers, key, unique_for, replace, place
                )
            ) as i
            where i.complaint is not null
            order by i.place
            limit 1;
        end if;
    exception
        when data_exception then
            v_complaint := rota._unreadable_job(jobs);
    end;

    if v_complaint is not null then
        raise exception '%', v_complaint
            using errcode = 'RTV01';
    end if;

    perform from rota.queue_walls;

    if found then
        perform rota._check_wall(q.queue)
        from (
            select distinct coalesce(t.queue, 'default') as queue
            from jsonb_to_recordset(jobs) as t(queue text)
            order by 1
        ) as q;
    end if;

    if jobs @? '$[*].payload ? (@ == null)' then
        v_null_payloads := array(
            select e.place
            from jsonb_array_elements(jobs) with ordinality as e(job, place)
            where e.job -> 'payload' = 'null'
        );
    end if;

    -- Asked first, because the loop's query converts every job once more, even to find no key.
    if jobs @? '$[*].unique_key ? (@ != null)' then
        for v_keyed in
            select t.*
            from rows from (
                jsonb_to_recordset(jobs) as (
                    task text, payload jsonb, queue text, run_at timestamptz, priority integer,
                    max_retries integer, timeout interval, unique_key text, headers jsonb, key text,
                    unique_for interval, replace boolean
                )
            ) with ordinality as t(
                task, payload, queue, run_at, priority, max_retries, timeout, unique_key,
                headers, key, unique_for, replace, place
            )
            where t.unique_key is not null
            order by t.unique_key collate "C", coalesce(t.queue, 'default') collate "C", t.place
        loop
            v_job := rota.enqueue_job(
                task => v_keyed.task,
                payload => coalesce(
                    v_keyed.payload,
                    case when v_keyed.place = any(v_null_payloads) then jsonb 'null' else '{}' end
                ),
                queue => coalesce(v_keyed.queue, 'default'),
                run_at => v_keyed.run_at,
                priority => coalesce(v_keyed.priority, 0),
                max_retries => v_keyed.max_retries,
                timeout => v_keyed.timeout,
                unique_key => v_keyed.unique_key,
                headers => v_keyed.headers,
                key => v_keyed.key,
                unique_for => v_keyed.unique_for,
                replace => v_keyed.replace
            );
            v_ids[v_keyed.place] := v_job.job_id;
            v_created[v_keyed.place] := v_job.created;
        end loop;
    end if;

    return query
        with item as materialized (
            select case when t.unique_key is null then nextval('rota.job_ids') end as id, t.*
            from rows from (
                jsonb_to_recordset(jobs) as (
                    task text, payload jsonb, queue text, run_at timestamptz, priority integer,
                    max_retries integer, timeout interval, unique_key text, headers jsonb, key text
                )
            ) with ordinality as t(
                task, payload, queue, run_at, priority, max_retries, timeout, unique_key,
                headers, key, place
            )
        ), unkeyed as (
            insert into rota.live_jobs (
                id, task, payload, queue, priority, run_at, scheduled_for,
                max_retries, timeout, created_at, headers, key
            )
            select
                i.id,
                i.task,
                coalesce(
                    i.payload,
                    case when i.place = any(v_null_payloads) then jsonb 'null' else '{}' end
                ),
                coalesce(i.queue, 'default'),
                coalesce(i.priority, 0),
                coalesce(i.run_at, v_now),
                coalesce(i.run_at, v_now),
                coalesce(i.max_retries, q.max_retries, 3),
                coalesce(i.timeout, q.timeout),
                v_now,
                nullif(i.headers, '{}'),
                i.key
            from item as i
            left join rota.queues as q on q.name = coalesce(i.queue, 'default')
            where i.unique_key is null
        )
        select coalesce(i.id, v_ids[i.place]), coalesce(v_created[i.place], true)
        from item as i
        order by i.place;

    -- Lanes and wake-ups of the others; enqueue_job has seen to those of the jobs with a key.
    perform
        rota._use_lane(l.queue, l.priority, l.keyed),
        rota._wake(l.queue, l.first_run_at, v_now)
    from (
        select
            coalesce(t.queue, 'default') as queue,
            coalesce(t.priority, 0) as priority,
            t.key is not null as keyed,
            min(coalesce(t.run_at, v_now)) as first_run_at
        from jsonb_to_recordset(jobs) as t(
            queue text, run_at timestamptz, priority integer, unique_key text, key text
        )
        where t.unique_key is null
        group by 1, 2, 3
    ) as l;
end;
$$;

comment on function rota.enqueue_jobs is
    'Add an array of jobs, objects with enqueue_job''s keys, all or nothing; rows come in order.';
