-- All finished rows are locked at once, in the order of their ids, so a second call waits for the
-- first and then finds the jobs live. Then all live rows are made by one statement, in the order in
-- which whoever waits at a unique index does (docs/inside.md). Where another live job took the
-- unique key or the name meanwhile, or a job of this very call, the row stays finished. The retry
-- is a new run, with all its attempts; the executions of the runs before it stay as they are.
create or replace function rota._retry_jobs(
    job_ids bigint[],
    at timestamptz,
    filter rota.job_filter default null
)
    returns setof rota.steered_job
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids bigint[];
    v_revived bigint[];
    v_lane record;
begin
    v_ids := array(
        select f.id
        from rota.finished_jobs as f
        where f.id = any(job_ids)
            and f.state in ('FAILED', 'CANCELLED')
            and rota._matches(
                filter, f.id, f.state, f.queue, f.task, f.schedule_type, f.unique_key, f.run_at,
                f.finished_at
            )
        order by f.id
        for update
    );

    if v_ids = '{}' then
        return;
    end if;

    with revived as (
        insert into rota.live_jobs as j (
            id, task, payload, queue, priority, schedule_type, run_at, scheduled_for, run,
            max_retries, timeout, unique_key, name, last_error, created_at
        )
        select
            f.id, f.task, f.payload, f.queue, f.priority, f.schedule_type, t.run_at, t.run_at,
            f.run + 1, f.max_retries, f.timeout, f.unique_key, f.name, f.last_error, f.created_at
        from rota.finished_jobs as f
        cross join lateral rota._retry_time(f, at) as t(run_at)
        where f.id = any(v_ids) and t.run_at is not null
        order by f.unique_key collate "C" nulls first, f.queue collate "C", f.id
        on conflict do nothing
        returning j.id
    )
    select coalesce(array_agg(r.id order by r.id), '{}') into v_revived
    from revived as r;

    update rota.schedules as s
    set paused_at = null,
        trigger_requested_at = null
    where s.job_id = any(v_revived);

    delete from rota.finished_jobs as f
    where f.id = any(v_revived);

    for v_lane in
        select j.queue::text, j.priority::integer, min(j.run_at::timestamptz) as run_at
        from rota.live_jobs as j
        where j.id = any(v_revived)
        group by j.queue, j.priority
    loop
        perform rota._use_lane(v_lane.queue, v_lane.priority);
        perform rota._wake(v_lane.queue, v_lane.run_at, at);
    end loop;

    return query
    select j.id, j.queue::text, j.state::text, j.run_at::timestamptz, null
    from rota.live_jobs as j
    where j.id = any(v_revived)
    order by j.id;

    if cardinality(v_revived) < cardinality(v_ids) then
        return query
        select f.id, f.queue, f.state::text, null::timestamptz, case
            when rota._retry_time(f, at) is null then 'over'
            when f.name is not null then 'name'
            else 'unique_key'
        end
        from rota.finished_jobs as f
        where f.id = any(v_ids);
    end if;
end;
$$;

comment on function rota._retry_jobs is
    'Bring those of these jobs back that FAILED or were CANCELLED; say of each why not.';
