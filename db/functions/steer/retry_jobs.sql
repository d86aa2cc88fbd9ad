-- First a look without a lock, so a dry run locks nothing; then one call for all (_retry_jobs),
-- which looks again at each under its lock. Jobs that cannot come back, because a live one holds
-- their key or because their schedule is over, are passed by: they would be met again by each call
-- of who calls until nothing more is changed. So are those below a job that did not complete, for
-- they come back with that one. All or nothing, in one transaction of at most 10,000 jobs, not
-- counting those that come back with others.
create or replace function rota.retry_jobs(
    filter jsonb,
    max_jobs integer default 1000,
    dry_run boolean default true
)
    returns rota.bulk_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._enqueue_time();
    v_filter rota.job_filter := rota._read_filter(filter, array['FAILED', 'CANCELLED']);
    v_queues text[] := rota.visible_queues();
    v_ids bigint[];
    v_changed bigint[] := '{}';
begin
    perform rota._check_max_jobs(max_jobs);

    v_ids := array(
        select f.id
        from rota.finished_jobs as f
        where f.state <> 'COMPLETED' -- as the index has it
            and (v_filter.ids is null or f.id = any(v_filter.ids))
            and rota._matches(
                v_filter, f.id, f.state, f.queue, f.task, f.schedule_type, f.unique_key, f.key,
                f.run_at, f.finished_at
            )
            and not exists (
                select from rota.live_jobs as j
                where j.unique_key = f.unique_key and j.queue = f.queue
            )
            and not exists (
                select from rota.live_jobs as j where j.name = f.name
            )
            and not exists (
                select
                from rota.workflow_jobs as w
                cross join lateral unnest(w.depends_on) as d(id)
                join rota.finished_jobs as p on p.id = d.id and p.state <> 'COMPLETED'
                where w.job_id = f.id
                    and w.if_parent_fails = 'cancel'
                    and not (
                        w.ended_by is distinct from p.id
                        and (v_queues is null or p.queue = any(v_queues))
                        and rota._matches(
                            v_filter, p.id, p.state, p.queue, p.task, p.schedule_type,
                            p.unique_key, p.key, p.run_at, p.finished_at
                        )
                    )
            )
            and (v_queues is null or f.queue = any(v_queues))
            and (f.schedule_type = 'ONE_TIME' or rota._retry_time(f, v_now) is not null)
        order by f.id
        limit max_jobs + 1
    );

    if dry_run is false then
        v_changed := array(
            select r.job_id
            from rota._retry_jobs(v_ids[:max_jobs], v_now, v_filter) as r
            where r.refusal is null
        );
    end if;

    return rota._bulk_outcome('retry_jobs', filter, null, max_jobs, dry_run, v_ids, v_changed);
end;
$$;

comment on function rota.retry_jobs is
    'Retry all jobs that a filter asks for, up to a number; a dry run only counts them.';
