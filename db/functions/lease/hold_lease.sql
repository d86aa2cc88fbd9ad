-- Takes the row lock that finish_job takes, and keeps it until the caller's transaction ends.
-- While it is held recover_jobs passes the job by, so what the caller writes to this database and
-- its finish_job commit together, or not at all. If the lease was lost already, this raises before
-- any effect; a recovery that is under way is waited for, and then it raises.
create or replace function rota.hold_lease(job_id bigint, token uuid)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform from rota.live_jobs as j
    where j.id = hold_lease.job_id and j.token = hold_lease.token
    for no key update;

    if not found then
        perform rota._refuse_lost_lease(job_id);
    end if;
end;
$$;

comment on function rota.hold_lease is
    'Lock a lease until the transaction ends, so that effects and finish commit together.';
