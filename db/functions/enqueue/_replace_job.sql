-- In a function that plans by index (db/settings.sql). The row of the key is locked first, so calls
-- for one key come one after the other; whether the job that has it can be replaced is then looked
-- at in a new snapshot. Its row is never waited for: who holds it claims the job, or ends it, and
-- then it would be too late. So what is locked, has begun, or is gone is left alone, and a job is
-- added: what was enqueued is not lost. A job in strict order that has begun keeps its place by its
-- row (counted), which nobody else may take over. One that sleeps or waits for an event has begun,
-- too, and what it has done is recorded under its id.
--
-- What is left of the job is its id and its age: the longest wait begins with its enqueue. Without
-- a run_at it is to run as soon as it can, so one that is due keeps its place in the lane.
create or replace function rota._replace_job(
    task text,
    payload jsonb,
    queue text,
    run_at timestamptz,
    priority integer,
    max_retries integer,
    timeout interval,
    unique_key text,
    headers jsonb,
    key text,
    unique_for interval,
    at timestamptz
)
    returns rota.enqueued_job
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_holder bigint;
    v_new bigint;
    v_job_id bigint;
    v_run_at timestamptz;
begin
    loop
        select u.job_id into v_holder
        from rota.unique_keys as u
        where u.queue = _replace_job.queue and u.unique_key = _replace_job.unique_key
        for update;

        exit when found;

        insert into rota.unique_keys (queue, unique_key, job_id, until)
        values (_replace_job.queue, _replace_job.unique_key, nextval('rota.job_ids'), at)
        on conflict on constraint unique_keys_pkey do nothing
        returning job_id into v_new;

        exit when found;
    end loop;

    update rota.live_jobs as j
    set task = _replace_job.task,
        payload = _replace_job.payload,
        priority = _replace_job.priority,
        run_at = t.run_at,
        scheduled_for = t.run_at,
        max_retries = t.max_retries,
        timeout = t.timeout,
        headers = nullif(_replace_job.headers, '{}'),
        key = _replace_job.key,
        counted = null,
        progress = null,
        last_error = null
    from (
        select
            h.id,
            least(
                coalesce(_replace_job.run_at, least(h.run_at, at)),
                rota._later(h.created_at, unique_for)
            ) as run_at,
            coalesce(_replace_job.max_retries, q.max_retries, 3) as max_retries,
            coalesce(_replace_job.timeout, q.timeout) as timeout
        from rota.live_jobs as h
        left join rota.queues as q on q.name = h.queue
        where h.id = any(v_holder || array(
                select p.id
                from rota.live_jobs as p
                where p.unique_key = _replace_job.unique_key
                    and p.queue || '' = _replace_job.queue -- by the index of keys, not of lanes
            ))
            and h.state = 'SCHEDULED'
            and h.attempt = 0
            and h.run = 1
            and (h.counted is null or q.key_in_order is not true)
            and not exists (select from rota.job_steps as s where s.job_id = h.id)
            and not exists (select from rota.event_waits as w where w.job_id = h.id)
        order by h.id desc
        limit 1
        for no key update of h skip locked
    ) as t
    where j.id = t.id
    returning j.id, j.run_at into v_job_id, v_run_at;

    if v_job_id is null and v_new is not null then
        return row(v_new, true)::rota.enqueued_job;
    end if;

    if v_job_id is distinct from v_holder then
        update rota.unique_keys as u
        set job_id = coalesce(v_job_id, nextval('rota.job_ids'))
        where u.queue = _replace_job.queue and u.unique_key = _replace_job.unique_key
        returning u.job_id into v_new;
    end if;

    if v_job_id is null then
        return row(v_new, true)::rota.enqueued_job;
    end if;

    perform rota._wake(queue, v_run_at, at);

    return row(v_job_id, false)::rota.enqueued_job;
end;
$$;

comment on function rota._replace_job is
    'Have the job that waits under a unique_key be this one; if none does, give a new one its id.';
