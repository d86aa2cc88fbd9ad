-- A run under way is asked to end, as cancel_job does; the name is free when it has ended.
create or replace function rota.delete_schedule(name text)
    returns rota.job_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_job rota.live_jobs := rota._lock_schedule(name);
begin
    return rota.cancel_job(v_job.id, 'the schedule was deleted');
end;
$$;

comment on function rota.delete_schedule is
    'End a schedule for good.';
