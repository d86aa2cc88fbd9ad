-- Locks in the order of ids, as every batch does, and passes by what another session holds: a job
-- whose handler holds its lease (hold_lease) must not keep the leases of the whole batch from being
-- extended. Such a job is still ours, cannot be taken back while it is held, and is answered with
-- the lease that it has. A lease is only ever lengthened. A pair that holds no lease is absent from
-- the rows, and nothing changes for it. The update is heap-only.
create or replace function rota.heartbeat_jobs(
    job_ids bigint[],
    tokens uuid[],
    lease interval default '60 seconds'
)
    returns setof rota.job_lease
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_held tid[];
begin
    if not rota._is_lease(lease) then
        perform rota._refuse_lease(lease);
    end if;

    if cardinality(job_ids) is distinct from cardinality(tokens) then
        raise exception 'job_ids and tokens must have the same length'
            using errcode = 'RTV01';
    end if;

    v_held := array(
        select j.ctid
        from rota.live_jobs as j
        where j.id = any(job_ids) and j.token = any(tokens)
        order by j.id
        for no key update skip locked
    );

    if cardinality(v_held) < cardinality(job_ids) then
        return query
            select j.id, j.lease_until::timestamptz, j.cancel_requested_at is not null
            from rota.live_jobs as j
            where j.id = any(job_ids)
                and j.ctid <> all(v_held)
                and (j.id, j.token) in (
                    select u.job_id, u.token from unnest(job_ids, tokens) as u(job_id, token)
                );
    end if;

    return query
        update rota.live_jobs as j
        set lease_until = greatest(j.lease_until, rota._later(v_now, lease))
        where j.ctid = any(v_held)
            and (j.id, j.token) in (
                select u.job_id, u.token from unnest(job_ids, tokens) as u(job_id, token)
            )
        returning j.id, j.lease_until::timestamptz, j.cancel_requested_at is not null;
end;
$$;

comment on function rota.heartbeat_jobs is
    'Extend the leases of a batch; a job whose lease is lost is absent from the rows.';
