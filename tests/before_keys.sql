-- The functions of before there were keys (0120), as far as jobs are added, claimed and finished by
-- them: what runs on while a database is upgraded (test_upgrade.py). Without their comments.

create or replace function rota.claim_next_job(
    queues text[] default '{default}',
    worker text default null,
    lease interval default '60 seconds',
    max_jobs integer default 1,
    max_bytes bigint default null
)
    returns setof rota.claimed_job
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_claimed_at timestamptz;
    v_token uuid;
    v_queue text;
    v_priority integer;
    v_shared boolean;
    v_behind rota.looked_behind;
    v_began timestamptz;
    v_took interval;
    v_own_id boolean;
    v_found tid[];
    v_number integer;
    v_recurring boolean;
    v_settling_since timestamptz;
    v_more boolean;
    v_room integer := max_jobs;
    v_slice integer;  -- of a lane, to be taken at once; null: as many as there is room for
    v_bytes bigint;
    v_bytes_left bigint;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'jobs can be claimed at READ COMMITTED only, not at %',
            upper(current_setting('transaction_isolation') collate "C")
            using errcode = 'RTC04',
                  hint = 'At higher levels a claim that meets another one fails.';
    end if;

    if queues is null then
        raise exception 'queues must not be null'
            using errcode = 'RTV01';
    end if;

    if max_jobs is null or max_jobs not between 1 and 10000 then
        raise exception 'max_jobs must be from 1 to 10000, not %', coalesce(max_jobs::text, 'null')
            using errcode = 'RTV01';
    end if;

    if max_bytes is not null then
        if max_bytes < 1 then
            raise exception 'max_bytes must be at least 1, not %', max_bytes
                using errcode = 'RTV01';
        end if;

        v_bytes_left := max_bytes;
        v_slice := 100;
    end if;

    if not rota._is_lease(lease) then
        perform rota._refuse_lease(lease);
    end if;

    perform from rota.queue_walls;

    if found then
        queues := rota._within_walls(queues);
    end if;

    <<lanes>>
    for v_queue, v_priority, v_shared in
        select l.queue, l.priority, l.cursor_since is not null
        from rota.lanes as l
        where l.queue = any(claim_next_job.queues)
            and not exists (
                select from rota.queues as q where q.name = l.queue and q.paused_at is not null
            )
        order by
            l.priority desc,
            case when cardinality(claim_next_job.queues) > 1
                then rota._oldest_due(l.queue, l.priority, v_now, l.cursor_since is not null)
            end
    loop
        loop
            v_behind := null;

            if v_shared or rota._has_lane_cursor(v_queue, v_priority) then
                v_behind := rota._look_behind(
                    v_queue, v_priority, v_now, least(v_slice, v_room), v_shared
                );
            end if;

            v_own_id := pg_current_xact_id_if_assigned() is null;
            v_began := clock_timestamp();
            select array_agg(p.place), bool_or(p.recurring) into v_found, v_recurring
            from (
                select j.ctid as place, j.schedule_type <> 'ONE_TIME' as recurring
                from rota.live_jobs as j
                where j.queue = v_queue
                    and j.priority = v_priority
                    and (j.run_at, j.id) >= (
                        coalesce((v_behind.cursor).run_at, '-infinity'),
                        coalesce((v_behind.cursor).id, 0)
                    )
                    and j.run_at <= v_now
                    and j.state = 'SCHEDULED'
                order by j.run_at, j.id
                limit least(v_slice, v_room) - coalesce(cardinality(v_behind.places), 0)
                for no key update skip locked
            ) as p;
            v_took := clock_timestamp() - v_began;

            if (v_behind.cursor).queue is not null
                or rota._is_slow(v_took, coalesce(cardinality(v_found), 0))
            then
                perform rota._note_scan(
                    v_behind.cursor, v_queue, v_priority, v_now, v_found, v_took, v_own_id,
                    least(v_slice, v_room) > coalesce(cardinality(v_behind.places), 0), v_shared
                );
            end if;

            v_found := v_behind.places || v_found;
            v_recurring := v_recurring or v_behind.recurring;
            continue lanes when v_found is null;
            v_more := false;

            if v_recurring or max_bytes is not null then
                v_number := cardinality(v_found);

                if v_recurring then
                    v_settling_since := coalesce(v_settling_since, clock_timestamp());
                    v_found := rota._settle_missed(v_found, v_now, v_settling_since);
                end if;

                v_more := cardinality(v_found) < v_number or coalesce(v_number = v_slice, false);

                if max_bytes is not null then
                    select sum(
                        rota._most_bytes(j.payload) + coalesce(rota._most_bytes(j.headers), 0)
                    ) into v_bytes
                    from rota.live_jobs as j
                    where j.ctid = any(v_found);

                    if v_bytes >= v_bytes_left then
                        select f.places, f.bytes into v_found, v_bytes
                        from rota._first_bytes(v_found, v_bytes_left) as f;
                    end if;

                    v_bytes_left := v_bytes_left - coalesce(v_bytes, 0);

                    if v_bytes_left <= 0 then
                        v_room := cardinality(v_found);
                    end if;
                end if;
            end if;

            v_claimed_at := rota._now();
            v_token := coalesce(v_token, gen_random_uuid());

            return query
                with claimed as (
                    update rota.live_jobs as j
                    set state = 'RUNNING',
                        token = v_token,
                        worker = coalesce(
                            claim_next_job.worker,
                            format('%s, pid %s', session_user, pg_backend_pid())
                        ),
                        lease_until = rota._later(v_claimed_at, lease),
                        attempt = j.attempt + 1,
                        started_at = v_claimed_at
                    where j.ctid = any(v_found)
                    returning
                        j.id, j.task, j.payload, j.queue, j.priority, j.attempt, j.max_retries,
                        j.scheduled_for, j.lease_until, j.timeout, j.run, j.headers, j.run_at
                )
                select
                    c.id, v_token, c.task::text, c.payload, c.queue::text, c.priority::integer,
                    c.attempt, c.max_retries::integer, c.scheduled_for,
                    c.lease_until::timestamptz, c.timeout::interval, c.run::bigint, c.headers
                from claimed as c
                order by c.run_at, c.id;

            v_room := v_room - cardinality(v_found);
            exit lanes when v_room = 0;
            continue lanes when not v_more;

            exit lanes when v_room < max_jobs
                and clock_timestamp() > v_settling_since + interval '100 ms';
            continue lanes when clock_timestamp() > v_settling_since + interval '1 second';

            if v_bytes_left < max_bytes then
                v_slice := least(
                    v_room, v_bytes_left * (max_jobs - v_room) / (max_bytes - v_bytes_left) + 1
                );
            end if;
        end loop;
    end loop;
end;
$$;

create or replace function rota._look_behind(
    queue text,
    priority integer,
    at timestamptz,
    room integer,
    shared boolean
)
    returns rota.looked_behind
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_cursor rota.lane_cursors := rota._lane_cursor(priority, queue, at, shared);
    v_budget interval := least((at - v_cursor.swept_at) / 50, interval '20 ms');
    v_behind rota.looked_behind := row(v_cursor, null, null);
    v_is_first boolean := not rota._has_lane_cursor(queue, priority);
    v_began timestamptz := clock_timestamp();
    v_slice_began timestamptz;
    v_took interval;
    v_down_to timestamptz;
    v_found integer;
begin
    if v_cursor.noted_at is null then
        if not v_is_first then
            perform set_config(rota._lane_setting(queue, priority), '', false);
        end if;

        return null;
    end if;

    if v_cursor.run_at = '-infinity' or v_budget < interval '200 us' then
        return v_behind;
    end if;

    if v_cursor.swept_run_at is null then
        v_cursor.swept_run_at := v_cursor.run_at;
        v_cursor.swept_id := v_cursor.id;
        v_cursor.slice := interval '1 ms';
        v_cursor.sweep_took := interval '0';
    end if;

    loop
        v_slice_began := clock_timestamp();
        v_down_to := case
            when v_is_first then 'infinity'
            when v_cursor.slice >= interval '100 years' then '-infinity'
            else v_cursor.swept_run_at - v_cursor.slice
        end;

        select array_agg(p.place), bool_or(p.recurring)
        into v_behind.places, v_behind.recurring
        from (
            select j.ctid as place, j.schedule_type <> 'ONE_TIME' as recurring
            from rota.live_jobs as j
            where j.queue = _look_behind.queue
                and j.priority = _look_behind.priority
                and j.run_at >= v_down_to
                and (j.run_at, j.id) < (v_cursor.swept_run_at, v_cursor.swept_id)
                and j.state = 'SCHEDULED'
            order by j.run_at, j.id
            limit room
            for no key update skip locked
        ) as p;

        if v_is_first then
            v_is_first := false;
            continue;
        end if;

        v_took := clock_timestamp() - v_slice_began;
        v_found := coalesce(cardinality(v_behind.places), 0);
        v_cursor.sweep_took := v_cursor.sweep_took + v_took;
        exit when v_found = room;

        v_cursor.swept_run_at := v_down_to;
        v_cursor.swept_id := 0;

        if v_took > interval '1 ms' then
            v_cursor.slice := greatest(v_cursor.slice / 4, interval '1 ms');
        elsif v_took < interval '250 us' then
            v_cursor.slice := v_cursor.slice * 2;
        end if;

        if v_down_to = '-infinity' then
            if not rota._is_slow(v_cursor.sweep_took, 0) then
                v_cursor.noted_at := null;
            end if;

            v_cursor.swept_run_at := null;
            v_cursor.sweeps := v_cursor.sweeps + 1;
            exit;
        end if;

        exit when v_found > 0 or clock_timestamp() > v_began + v_budget;
    end loop;

    if v_found > 0 and not rota._is_slow(v_took, v_found) then
        v_cursor.swept_at := at - interval '1 second';
    else
        v_cursor.swept_at := least(
            greatest(at, v_cursor.swept_at + 50 * (clock_timestamp() - v_began)),
            at + interval '1 minute'
        );
    end if;

    v_behind.cursor := v_cursor;
    return v_behind;
end;
$$;

create or replace function rota._oldest_due(
    queue text,
    priority integer,
    at timestamptz,
    shared boolean
)
    returns timestamptz
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_cursor rota.lane_cursors := rota._lane_cursor(priority, queue, at, shared);
begin
    return least(case when v_cursor.run_at > '-infinity' then v_cursor.swept_at end, (
        select j.run_at
        from rota.live_jobs as j
        where j.queue = _oldest_due.queue
            and j.priority = _oldest_due.priority
            and (j.run_at, j.id) >= (v_cursor.run_at, v_cursor.id)
            and j.run_at <= at
            and j.state = 'SCHEDULED'
        order by j.run_at, j.id
        limit 1
    ));
end;
$$;

create or replace function rota._scan_time(
    queue text,
    priority integer,
    at timestamptz
)
    returns interval
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_until timestamptz;
    v_began timestamptz;
begin
    foreach v_until in array array['-infinity', at] loop
        v_began := clock_timestamp();

        perform
        from rota.live_jobs as j
        where j.queue = _scan_time.queue
            and j.priority = _scan_time.priority
            and j.run_at <= v_until
            and j.state = 'SCHEDULED'
        order by j.run_at, j.id
        limit 1;
    end loop;

    return clock_timestamp() - v_began;
end;
$$;

create or replace function rota._use_lane(queue text, priority integer)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from rota.lanes as l
        where l.queue = _use_lane.queue and l.priority = _use_lane.priority
            and l.retired_at is null
    ) then
        insert into rota.lanes (queue, priority)
        values (_use_lane.queue, _use_lane.priority);
    end if;
end;
$$;

create or replace function rota._bad_job(
    task text,
    payload jsonb,
    queue text,
    run_at timestamptz,
    priority integer,
    max_retries integer,
    timeout interval,
    unique_key text,
    headers jsonb
)
    returns text
    language sql
    stable
as $$
    select case
        when task is null or length(task) not between 1 and 200
            then format('task must have 1 to 200 characters, not %s', coalesce(length(task), 0))
        when task ~ '[[:cntrl:]]'
            then 'task must not contain control characters'
        when payload is null
            then 'payload must not be null'
        when rota._bad_queue(queue) is not null
            then rota._bad_queue(queue)
        when run_at not between '0001-01-02 00:00:00+00' and '9998-12-31 00:00:00+00'
            then format(
                'run_at must lie between the years 1 and 9998, not at %s', rota._utc_text(run_at)
            )
        when priority is null or priority not between -100 and 100
            then format(
                'priority must be from -100 to 100, not %s', coalesce(priority::text, 'null')
            )
        when max_retries not between 0 and 1000
            then format('max_retries must be from 0 to 1000, not %s', max_retries)
        when timeout > interval '366 days' or not rota._leads_on(timeout)
            then format(
                'timeout must be more than 0 and at most 366 days, not %s',
                rota._span_text(timeout)
            )
        when unique_key is not null and length(unique_key) not between 1 and 500
            then format('unique_key must have 1 to 500 characters, not %s', length(unique_key))
        when headers is not null
            then rota._bad_headers(headers)
    end
$$;

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
                    'priority', 'max_retries', 'timeout', 'unique_key', 'headers'
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
                    rota._bad_job(
                        t.task,
                        coalesce(t.payload, '{}'),
                        coalesce(t.queue, 'default'),
                        t.run_at,
                        coalesce(t.priority, 0),
                        t.max_retries,
                        t.timeout,
                        t.unique_key,
                        t.headers
                    ) as complaint
                from rows from (
                    jsonb_to_recordset(jobs) as (
                        task text, payload jsonb, queue text, run_at timestamptz,
                        priority integer, max_retries integer, timeout interval, unique_key text,
                        headers jsonb
                    )
                ) with ordinality as t(
                    task, payload, queue, run_at, priority, max_retries, timeout, unique_key,
                    headers, place
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
    if jobs @? '$[*].unique_key ? (@ != null)' then
        for v_keyed in
            select t.*
            from rows from (
                jsonb_to_recordset(jobs) as (
                    task text, payload jsonb, queue text, run_at timestamptz, priority integer,
                    max_retries integer, timeout interval, unique_key text, headers jsonb
                )
            ) with ordinality as t(
                task, payload, queue, run_at, priority, max_retries, timeout, unique_key,
                headers, place
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
                headers => v_keyed.headers
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
                    max_retries integer, timeout interval, unique_key text, headers jsonb
                )
            ) with ordinality as t(
                task, payload, queue, run_at, priority, max_retries, timeout, unique_key,
                headers, place
            )
        ), unkeyed as (
            insert into rota.live_jobs (
                id, task, payload, queue, priority, run_at, scheduled_for,
                max_retries, timeout, created_at, headers
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
                nullif(i.headers, '{}')
            from item as i
            left join rota.queues as q on q.name = coalesce(i.queue, 'default')
            where i.unique_key is null
        )
        select coalesce(i.id, v_ids[i.place]), coalesce(v_created[i.place], true)
        from item as i
        order by i.place;
    perform rota._use_lane(l.queue, l.priority), rota._wake(l.queue, l.first_run_at, v_now)
    from (
        select
            coalesce(t.queue, 'default') as queue,
            coalesce(t.priority, 0) as priority,
            min(coalesce(t.run_at, v_now)) as first_run_at
        from jsonb_to_recordset(jobs) as t(
            queue text, run_at timestamptz, priority integer, unique_key text
        )
        where t.unique_key is null
        group by 1, 2
    ) as l;
end;
$$;

create or replace function rota.enqueue_many(
    task text,
    payloads jsonb,
    queue text default 'default',
    run_at timestamptz default null,
    priority integer default 0,
    max_retries integer default null,
    timeout interval default null,
    headers jsonb default null
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
        task, '{}', queue, run_at, priority, max_retries, timeout, null, headers
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
            created_at, headers
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
            nullif(enqueue_many.headers, '{}')
        from jsonb_array_elements(payloads) as e(payload)
        returning j.id, true;

    if found then
        perform rota._use_lane(queue, priority);
        perform rota._wake(queue, v_run_at, v_now);
    end if;
end;
$$;

create or replace function rota._complete_jobs(
    job_ids bigint[],
    tokens uuid[],
    results jsonb[]
)
    returns boolean
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_held tid[];
    v_plain boolean;
begin
    select array_agg(h.place), bool_and(h.plain) into v_held, v_plain
    from (
        select
            j.ctid as place,
            j.schedule_type = 'ONE_TIME' and j.cancel_requested_at is null as plain
        from rota.live_jobs as j
        where j.id = any(job_ids)
            and (j.id, j.token) in (select * from unnest(job_ids, tokens))
        order by j.id
        for no key update
    ) as h;

    if v_plain is not true or cardinality(v_held) <> cardinality(job_ids) then
        return false;
    end if;

    with gone as (
        delete from rota.live_jobs as j
        where j.ctid = any(v_held)
        returning
            j.id, j.task, j.payload, j.queue, j.priority, j.schedule_type, j.run_at,
            j.scheduled_for, j.run, j.attempt, j.max_retries, j.timeout, j.unique_key, j.worker,
            j.token, j.progress, j.last_error, j.created_at, j.started_at, j.headers
    )
    insert into rota.finished_jobs (
        id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run,
        attempt, max_retries, timeout, unique_key, worker, token, progress, last_error, result,
        created_at, started_at, finished_at, headers
    )
    select
        g.id, g.task, g.payload, g.queue, g.priority, 'COMPLETED', g.schedule_type, g.run_at,
        g.scheduled_for, g.run, g.attempt, g.max_retries, g.timeout, g.unique_key, g.worker,
        g.token, g.progress, g.last_error, r.result, g.created_at, g.started_at, v_now,
        g.headers
    from gone as g
    left join unnest(job_ids, results) as r(job_id, result) on r.job_id = g.id;

    return true;
end;
$$;

create or replace function rota._end_attempts(
    job_ids bigint[],
    tokens uuid[],
    errors text[] default null,
    results jsonb[] default null,
    ending text default null,
    retry_in interval default null,
    retry boolean default true
)
    returns setof rota.ended_attempt
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_held tid[] := array(
        select j.ctid
        from rota.live_jobs as j
        where j.id = any(job_ids)
            and (j.id, j.token) in (select * from unnest(job_ids, tokens))
        order by j.id
        for no key update
    );
begin
    return query
        with held as materialized (
            select
                j.*,
                j.ctid as place,
                i.result,
                left(i.error, 10000) as error,
                case
                    when ending = 'LOST' then 'LOST'
                    when j.cancel_requested_at is not null then 'CANCELLED'
                    when ending = 'RELEASED' then 'RELEASED'
                    when i.error is null then 'SUCCEEDED'
                    when v_now >= rota._later(j.started_at, j.timeout) then 'TIMED_OUT'
                    else 'FAILED'
                end as outcome,
                case
                    when ending is null and i.error is null then null  -- it succeeded
                    when ending = 'RELEASED' and retry_in = interval '0' then j.run_at
                    else rota._later(v_now, coalesce(
                        retry_in, rota._backoff(j.attempt, q.backoff_base, q.backoff_cap)
                    ))
                end as retry_at,
                case when j.schedule_type <> 'ONE_TIME'
                    then rota._next_slot(j, v_now)
                end as next
            from rota.live_jobs as j
            join (
                select distinct on (u.job_id, u.token) u.*
                from unnest(job_ids, tokens, errors, results)
                    with ordinality as u(job_id, token, error, result, place)
                order by u.job_id, u.token, u.place
            ) as i on i.job_id = j.id and i.token = j.token
            left join rota.queues as q on q.name = j.queue
            where j.ctid = any(v_held)
        ), judged as (
            select
                h.*,
                case
                    when h.cancel_requested_at is not null then 'CANCELLED'
                    when h.outcome = 'RELEASED' then 'SAME RUN'
                    when h.outcome = 'SUCCEEDED' and h.schedule_type = 'ONE_TIME' then 'COMPLETED'
                    when h.outcome <> 'SUCCEEDED' and retry and h.attempt <= h.max_retries
                        and ((h.next).slot is null or h.retry_at < (h.next).slot) then 'SAME RUN'
                    when h.schedule_type = 'ONE_TIME' then 'FAILED'
                    when (h.next).slot is not null or (h.next).error is not null then 'NEXT RUN'
                    else 'COMPLETED'
                end as verdict
            from held as h
        ), decided as materialized (
            select
                d.*,
                case when d.verdict in ('SAME RUN', 'NEXT RUN')
                    then 'SCHEDULED'
                    else d.verdict
                end as new_state,
                case
                    when d.verdict = 'NEXT RUN' then (d.next).run_at
                    when d.verdict = 'SAME RUN' and (d.next).run_at = 'infinity' then 'infinity'
                    when d.verdict = 'SAME RUN' then d.retry_at
                end as new_run_at,
                d.verdict = 'COMPLETED' and d.schedule_type = 'ONE_TIME' as is_both
            from judged as d
        ), kept as (
            update rota.live_jobs as j
            set state = 'SCHEDULED',
                run_at = d.new_run_at,
                scheduled_for = case
                    when d.verdict = 'NEXT RUN' and (d.next).slot is not null then (d.next).slot
                    else d.scheduled_for
                end,
                run = d.run + case d.verdict when 'NEXT RUN' then 1 else 0 end,
                attempt = case
                    when d.verdict = 'NEXT RUN' then 0
                    when d.outcome = 'RELEASED' then d.attempt - 1
                    else d.attempt
                end,
                progress = case d.verdict when 'SAME RUN' then d.progress end,
                last_error = coalesce(
                    case d.verdict when 'NEXT RUN' then (d.next).error end, d.error, d.last_error
                ),
                token = null,
                worker = null,
                lease_until = null,
                started_at = null,
                unsettled_since = case
                    when d.verdict = 'NEXT RUN' and (d.next).error is not null then v_now
                end
            from decided as d
            where j.id = d.id
                and j.ctid = any(array(
                    select k.place from decided as k where k.new_state = 'SCHEDULED'
                ))
        ), gone as (
            delete from rota.live_jobs as j
            where j.ctid = any(array(
                select k.place from decided as k where k.new_state <> 'SCHEDULED'
            ))
        ), ended as (
            insert into rota.finished_jobs (
                id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for,
                run, attempt, max_retries, timeout, unique_key, name, worker, token, progress,
                cancel_requested_at, cancel_reason, last_error, result, created_at, started_at,
                finished_at, headers
            )
            select
                d.id, d.task, d.payload, d.queue, d.priority, d.new_state, d.schedule_type,
                d.run_at, d.scheduled_for, d.run, d.attempt, d.max_retries, d.timeout,
                d.unique_key, d.name, d.worker, case when d.is_both then d.token end, d.progress,
                d.cancel_requested_at, d.cancel_reason, coalesce(d.error, d.last_error), d.result,
                d.created_at, d.started_at, v_now, d.headers
            from decided as d
            where d.new_state <> 'SCHEDULED'
        ), recorded as (
            insert into rota.attempts (
                job_id, run, attempt, outcome, worker, token, scheduled_for, started_at,
                finished_at, error, result, job_state, next_run_at
            )
            select
                d.id, d.run, d.attempt, d.outcome, d.worker, d.token, d.scheduled_for,
                d.started_at, v_now, d.error, d.result, d.new_state,
                nullif(d.new_run_at, 'infinity')
            from decided as d
            where not d.is_both
        ), passed as (
            insert into rota.attempts (
                job_id, run, attempt, outcome, scheduled_for, finished_at, error, result,
                job_state, next_run_at
            )
            select
                d.id, d.run, 0, 'SKIPPED', d.scheduled_for, v_now, p.reason,
                jsonb_build_object('slots', p.slots), d.new_state, nullif(d.new_run_at, 'infinity')
            from decided as d
            cross join lateral rota._slots_passed(
                d.id, d.scheduled_for, (d.next).slot,
                d.outcome not in ('SUCCEEDED', 'CANCELLED') and retry
                    and d.attempt <= d.max_retries
            ) as p
            where d.verdict = 'NEXT RUN' and p.reason is not null
        )
        select d.id, d.token, d.new_state, nullif(d.new_run_at, 'infinity')
        from decided as d
        where case  -- always true: those who sleep are told of what comes back
            when d.new_run_at < 'infinity' then rota._wake(d.queue, d.new_run_at, v_now)
            else true
        end;
end;
$$;

create or replace function rota._retire_job(
    job rota.live_jobs,
    state text,
    reason text,
    at timestamptz
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    delete from rota.live_jobs as j
    where j.id = job.id;

    insert into rota.finished_jobs (
        id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run,
        attempt, max_retries, timeout, unique_key, name, progress, cancel_requested_at,
        cancel_reason, last_error, created_at, finished_at, headers
    )
    values (
        job.id, job.task, job.payload, job.queue, job.priority, state, job.schedule_type,
        job.run_at, job.scheduled_for, job.run, job.attempt, job.max_retries, job.timeout,
        job.unique_key, job.name, job.progress, case state when 'CANCELLED' then at end, reason,
        job.last_error, job.created_at, at, job.headers
    );
end;
$$;

create or replace function rota._refuse_impossible_jobs()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_id bigint;
    v_rule text;
begin
    select j.id, c.rule into v_id, v_rule
    from changed as j
    cross join lateral (
        select rota._impossible_job(
            j.state, j.schedule_type, j.attempt, j.max_retries, j.run_at, j.name,
            j.cancel_requested_at,
            num_nonnulls(j.token, j.worker, j.lease_until, j.started_at)
        ) as rule
    ) as c
    where c.rule is not null
    limit 1;

    if found then
        raise exception 'job % would break the rule %', v_id, v_rule
            using errcode = 'RTI01',
                  hint = 'No function of Rota does that: somebody writes to live_jobs by hand, '
                      'or this is a bug.';
    end if;

    return null;
end;
$$;

create or replace function rota.next_due_in(
    queues text[] default '{default}',
    within interval default '1 second'
)
    returns interval
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_began timestamptz := v_now - (clock_timestamp() - statement_timestamp());
    v_until timestamptz;
    v_next timestamptz;
begin
    if within is null or within not between interval '0' and interval '1 day' then
        raise exception 'within must be from 0 to 1 day, not %',
            coalesce(rota._span_text(within), 'null')
            using errcode = 'RTV01';
    end if;

    v_until := rota._later(v_now, within);

    perform from rota.queue_walls;

    if found then
        queues := rota._within_walls(queues);
    end if;

    select min(n.run_at) into v_next
    from rota.lanes as l
    cross join lateral (
        select j.run_at
        from rota.live_jobs as j
        where j.queue = l.queue
            and j.priority = l.priority
            and j.run_at > v_began
            and j.run_at <= v_until
            and j.state = 'SCHEDULED'
        order by j.run_at, j.id
        limit 1
    ) as n
    where l.queue = any(next_due_in.queues)
        and not exists (
            select from rota.queues as q where q.name = l.queue and q.paused_at is not null
        );

    return case when v_next > v_now then v_next - v_now
        when v_next <= v_now then interval '0'
    end;
end;
$$;

create or replace function rota._count_live(at timestamptz)
    returns setof rota.census
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        j.queue::text,
        j.task::text,
        j.priority::integer,
        count(*) filter (where j.state = 'SCHEDULED'),
        count(*) filter (where j.state = 'SCHEDULED' and j.run_at <= at),
        count(*) filter (where j.state = 'SCHEDULED' and j.attempt > 0),
        count(*) filter (where j.state = 'RUNNING'),
        count(*) filter (where j.state = 'RUNNING' and j.lease_until < at),
        count(*) filter (
            where j.state = 'RUNNING' and rota._later(j.started_at, j.timeout) <= at
        ),
        min(j.run_at::timestamptz) filter (where j.state = 'SCHEDULED' and j.run_at <= at),
        min(j.lease_until::timestamptz) filter (
            where j.state = 'RUNNING' and j.lease_until < at
        ),
        min(rota._later(j.started_at, j.timeout)) filter (
            where j.state = 'RUNNING' and rota._later(j.started_at, j.timeout) <= at
        )
    from rota.live_jobs as j
    group by j.queue, j.task, j.priority
$$;

create or replace function rota.take_census(
    older_than interval default '5 seconds',
    force boolean default false
)
    returns boolean
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_began constant timestamptz := clock_timestamp();
    v_now constant timestamptz := rota._now();
    v_times constant integer := case when force then 10 else 100 end;
begin
    if older_than is null or older_than not between interval '0' and interval '1 day' then
        raise exception 'older_than must be from 0 to 1 day, not %',
            coalesce(rota._span_text(older_than), 'null')
            using errcode = 'RTV01';
    end if;

    if not rota._is_census_due(v_now, older_than, v_times)
        or not rota._take_chore('take_census')
        or not rota._is_census_due(v_now, older_than, v_times)
    then
        return false;
    end if;

    with counted as materialized (
        select n.* from rota._count_live(v_now) as n
    ), gone as (
        delete from rota.census as c
        where (c.queue, c.task, c.priority) not in (
            select n.queue, n.task, n.priority from counted as n
        )
    ), changed as (
        update rota.census as c
        set scheduled = n.scheduled,
            due = n.due,
            retrying = n.retrying,
            running = n.running,
            lost = n.lost,
            overdue = n.overdue,
            oldest_due_at = n.oldest_due_at,
            lost_since = n.lost_since,
            overdue_since = n.overdue_since
        from counted as n
        where (n.queue, n.task, n.priority) = (c.queue, c.task, c.priority)
            and (
                n.scheduled, n.due, n.retrying, n.running, n.lost, n.overdue, n.oldest_due_at,
                n.lost_since, n.overdue_since
            ) is distinct from (
                c.scheduled, c.due, c.retrying, c.running, c.lost, c.overdue, c.oldest_due_at,
                c.lost_since, c.overdue_since
            )
    )
    insert into rota.census (
        queue, task, priority, scheduled, due, retrying, running, lost, overdue, oldest_due_at,
        lost_since, overdue_since
    )
    select
        n.queue, n.task, n.priority, n.scheduled, n.due, n.retrying, n.running, n.lost, n.overdue,
        n.oldest_due_at, n.lost_since, n.overdue_since
    from counted as n
    where (n.queue, n.task, n.priority) not in (
        select c.queue, c.task, c.priority from rota.census as c
    );

    with counted as materialized (
        select
            r.worker,
            r.queue,
            count(*) as running,
            (array_agg(r.id order by r.started_at, r.id))[:20] as longest_running
        from (
            select j.worker, j.queue::text as queue, j.id, j.started_at
            from rota.live_jobs as j
            where j.state = 'RUNNING'
        ) as r
        group by r.worker, r.queue
    ), gone as (
        delete from rota.census_workers as c
        where (c.worker, c.queue) not in (select n.worker, n.queue from counted as n)
    ), changed as (
        update rota.census_workers as c
        set running = n.running,
            longest_running = n.longest_running
        from counted as n
        where (n.worker, n.queue) = (c.worker, c.queue)
            and (n.running, n.longest_running) is distinct from (c.running, c.longest_running)
    )
    insert into rota.census_workers (worker, queue, running, longest_running)
    select n.worker, n.queue, n.running, n.longest_running
    from counted as n
    where (n.worker, n.queue) not in (select c.worker, c.queue from rota.census_workers as c);

    insert into rota.depths (
        minute, seconds, queue, scheduled, due, running, oldest_due_seconds
    )
    select
        date_trunc('minute', v_now, 'UTC'),
        60,
        c.queue,
        sum(c.scheduled),
        sum(c.due),
        sum(c.running),
        extract(epoch from v_now - min(c.oldest_due_at))
    from rota.census as c
    group by c.queue
    on conflict do nothing;

    update rota.chores as c
    set ran_at = v_now,
        took = clock_timestamp() - v_began
    where c.chore = 'take_census';

    return true;
end;
$$;
