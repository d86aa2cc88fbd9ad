-- One row lock, nothing after it. A lease is only ever lengthened. As heartbeat_jobs does, it
-- passes by a job that another session holds (hold_lease, or who enqueues what depends on the job):
-- that job cannot be taken back meanwhile, and is answered with the lease that it has. Only who has
-- progress to record waits for it.
create or replace function rota.heartbeat_job(
    job_id bigint,
    token uuid,
    lease interval default '60 seconds',
    progress jsonb default null
)
    returns rota.lease
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_lease rota.lease;
    v_place tid[];
begin
    if not rota._is_lease(lease) then
        perform rota._refuse_lease(lease);
    end if;

    if progress is null then
        v_place := array(
            select j.ctid
            from rota.live_jobs as j
            where j.id = heartbeat_job.job_id and j.token = heartbeat_job.token
            for no key update skip locked
        );
    else
        v_place := array(
            select j.ctid
            from rota.live_jobs as j
            where j.id = heartbeat_job.job_id and j.token = heartbeat_job.token
            for no key update
        );
    end if;

    update rota.live_jobs as j
    set lease_until = greatest(j.lease_until, rota._later(v_now, lease)),
        progress = coalesce(heartbeat_job.progress, j.progress)
    where j.ctid = any(v_place)
        and j.id = heartbeat_job.job_id
        and j.token = heartbeat_job.token
    returning j.lease_until, j.cancel_requested_at is not null into v_lease;

    if not found then
        select j.lease_until, j.cancel_requested_at is not null into v_lease
        from rota.live_jobs as j
        where j.id = heartbeat_job.job_id and j.token = heartbeat_job.token;
    end if;

    if not found then
        perform rota._refuse_lost_lease(job_id);
    end if;

    return v_lease;
end;
$$;

comment on function rota.heartbeat_job is
    'Extend the lease of a running job, record its progress, and learn whether to stop.';
