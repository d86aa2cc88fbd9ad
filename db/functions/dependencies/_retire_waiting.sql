-- For WAITING jobs of which the caller holds the rows in job_waits. causes are the parents that
-- each goes down with, and with which it comes back when they are retried; null where somebody
-- asked for it. Edges that lead to such a job from other parents stay, and go with these.
create or replace function rota._retire_waiting(
    job_ids bigint[],
    causes bigint[],
    reason text,
    at timestamptz
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    delete from rota.job_waits as w
    where w.job_id = any(job_ids);

    with gone as (
        delete from rota.live_jobs as j
        where j.id = any(job_ids) and j.state = 'WAITING'
        returning j.*
    ), noted as (
        update rota.workflow_jobs as w
        set ended_by = c.cause
        from gone as g
        join unnest(job_ids, causes) as c(id, cause) on c.id = g.id
        where w.job_id = any(job_ids) and w.job_id = g.id and c.cause is not null
    )
    insert into rota.finished_jobs (
        id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run,
        attempt, max_retries, timeout, unique_key, name, progress, cancel_requested_at,
        cancel_reason, last_error, created_at, finished_at, headers, key
    )
    select
        g.id, g.task, g.payload, g.queue, g.priority, 'CANCELLED', g.schedule_type, g.run_at,
        g.scheduled_for, g.run, g.attempt, g.max_retries, g.timeout, g.unique_key, g.name,
        g.progress, at,
        case when c.cause is null
            then reason
            else format('job %s, on which it depends, did not complete', c.cause)
        end,
        g.last_error, g.created_at, at, g.headers, g.key
    from gone as g
    left join unnest(job_ids, causes) as c(id, cause) on c.id = g.id;
end;
$$;

comment on function rota._retire_waiting is
    'Cancel jobs that wait for others.';
