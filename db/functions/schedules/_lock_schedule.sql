-- One row lock, the first and last of the functions that steer a schedule but for its definition.
-- By its name a schedule is the caller's; one that somebody put into a queue behind a wall all the
-- same is not there, and its row is not locked.
create or replace function rota._lock_schedule(name text)
    returns rota.live_jobs
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_job rota.live_jobs;
begin
    perform rota._check_name(name);

    select j.* into v_job
    from rota.live_jobs as j
    where j.name = _lock_schedule.name and rota._sees_queue(j.queue)
    for no key update;

    if not found then
        raise exception 'there is no live schedule "%"', left(coalesce(name, 'null'), 200)
            using errcode = 'RTN02';
    end if;

    return v_job;
end;
$$;

comment on function rota._lock_schedule is
    'Lock the live schedule of this name, or say that there is none.';
