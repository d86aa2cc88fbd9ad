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
    v_first timestamptz;  -- between these they ended, so that other weeks are not searched again
    v_last timestamptz;
    v_recurring boolean;
    v_revived bigint[];
    v_id bigint;
    v_queues text[];
    v_priorities integer[];
    v_run_ats timestamptz[];
    v_keyed boolean[];
    v_in_workflow boolean;
    v_family rota.revivable_jobs;
    v_states text[];
begin
    v_in_workflow := exists (
        select from rota.workflow_jobs as w where w.job_id = any(job_ids)
    ) or exists (
        select from rota.workflow_jobs as w where w.ended_by = any(job_ids)
    );

    if v_in_workflow then
        v_family := rota._revivable(job_ids, not filter is null);
    end if;

    select array_agg(l.id), min(l.finished_at), max(l.finished_at), bool_or(l.recurring)
    into v_ids, v_first, v_last, v_recurring
    from (
        select f.id, f.finished_at, f.schedule_type <> 'ONE_TIME' as recurring
        from rota.finished_jobs as f
        where f.id = any(coalesce(v_family.ids, job_ids))
            and f.state in ('FAILED', 'CANCELLED')
            and (filter is null or v_in_workflow or rota._matches(
                filter, f.id, f.state, f.queue, f.task, f.schedule_type, f.unique_key, f.key,
                f.run_at, f.finished_at
            ))
        order by f.id
        for update
    ) as l;

    if v_in_workflow then
        return query
        select f.id, f.queue, f.state::text, null::timestamptz, case
            when exists (
                select
                from rota.live_jobs as j
                where j.unique_key = f.unique_key and j.queue || '' = f.queue
            )
                then 'unique_key'
            else 'parent'
        end
        from rota.finished_jobs as f
        where f.id = any(job_ids)
            and f.state <> 'COMPLETED'
            and f.id not in (select b.id from unnest(v_family.ids) as b(id));
    end if;

    if v_ids is null then
        return;
    end if;

    with revived as (
        insert into rota.live_jobs as j (
            id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run,
            max_retries, timeout, unique_key, name, last_error, created_at, headers, key, linked
        )
        select
            f.id, f.task, f.payload, f.queue, f.priority,
            case when t.waits then 'WAITING' else 'SCHEDULED' end, f.schedule_type,
            case when t.waits then 'infinity' else t.run_at end, t.run_at, f.run + 1,
            f.max_retries, f.timeout, f.unique_key, f.name, f.last_error, f.created_at, f.headers,
            f.key, nullif(v_in_workflow, false)
        from rota.finished_jobs as f
        cross join lateral (
            select
                case when f.schedule_type = 'ONE_TIME' then at else rota._retry_time(f, at) end,
                f.id in (select w.id from unnest(v_family.waiting) as w(id))
        ) as t(run_at, waits)
        where f.id = any(v_ids) and f.finished_at between v_first and v_last
            and t.run_at is not null
        order by f.unique_key collate "C" nulls first, f.queue collate "C", f.id
        on conflict do nothing
        returning j.id, j.queue, j.priority, j.state, j.run_at, j.key
    )
    select
        coalesce(array_agg(r.id), '{}'), array_agg(r.queue), array_agg(r.priority),
        array_agg(nullif(r.run_at, 'infinity')), array_agg(r.key is not null), array_agg(r.state)
    into v_revived, v_queues, v_priorities, v_run_ats, v_keyed, v_states
    from (select * from revived order by id) as r;

    if v_in_workflow and cardinality(v_revived) < cardinality(v_ids) then
        select f.id into v_id
        from rota.finished_jobs as f
        join rota.workflow_jobs as w on w.job_id = f.id
        where f.id = any(v_ids) and f.id <> all(v_revived)
        limit 1;

        if found then
            raise exception 'job % cannot be retried: another live job holds its unique_key', v_id
                using errcode = 'RTC03';
        end if;
    end if;

    if v_recurring then
        update rota.schedules as s
        set paused_at = null,
            trigger_requested_at = null
        where s.job_id = any(v_revived);
    end if;

    delete from rota.finished_jobs as f
    where f.id = any(v_revived) and f.finished_at between v_first and v_last;

    perform
        rota._use_lane(l.queue, l.priority, l.keyed),
        case when l.first_run_at is not null then rota._wake(l.queue, l.first_run_at, at) end
    from (
        select r.queue, r.priority, r.keyed, min(r.run_at) as first_run_at
        from unnest(v_queues, v_priorities, v_run_ats, v_keyed)
            as r(queue, priority, run_at, keyed)
        group by r.queue, r.priority, r.keyed
    ) as l;

    return query
    select r.id, r.queue, r.state, r.run_at, null
    from unnest(v_revived, v_queues, v_states, v_run_ats) as r(id, queue, state, run_at);

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
