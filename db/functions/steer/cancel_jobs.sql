-- First a look without a lock, so a dry run locks nothing and what does not match is never waited
-- for; then one call for all (_cancel_jobs), which looks again at each under its lock. Jobs that
-- were asked to end already are passed by: who calls until nothing more is changed comes to an end.
-- All or nothing, in one transaction of at most 10,000 jobs.
create or replace function rota.cancel_jobs(
    filter jsonb,
    reason text default null,
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
    v_filter rota.job_filter := rota._read_filter(filter, array['WAITING', 'SCHEDULED', 'RUNNING']);
    v_queues text[] := rota.visible_queues();
    v_ids bigint[];
    v_changed bigint[] := '{}';
begin
    perform rota._check_max_jobs(max_jobs);

    v_ids := array(
        select j.id
        from rota.live_jobs as j
        where (v_filter.ids is null or j.id = any(v_filter.ids))
            and rota._matches(
                v_filter, j.id, j.state, j.queue, j.task, j.schedule_type, j.unique_key, j.key,
                j.run_at, null
            )
            and j.cancel_requested_at is null
            and (v_queues is null or j.queue = any(v_queues))
        order by j.id
        limit max_jobs + 1
    );

    if dry_run is false then
        v_changed := array(
            select c.job_id
            from rota._cancel_jobs(v_ids[:max_jobs], reason, rota._now(), v_filter) as c
        );
    end if;

    return rota._bulk_outcome('cancel_jobs', filter, reason, max_jobs, dry_run, v_ids, v_changed);
end;
$$;

comment on function rota.cancel_jobs is
    'Cancel all jobs that a filter asks for, up to a number; a dry run only counts them.';
