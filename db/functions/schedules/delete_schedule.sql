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
    perform rota._record_action('delete_schedule', v_job.id, v_job.queue, name);

    return (
        select row(c.job_id, c.state, c.run_at)::rota.job_outcome
        from rota._cancel_jobs(array[v_job.id], 'the schedule was deleted', rota._now()) as c
    );
end;
$$;

comment on function rota.delete_schedule is
    'End a schedule for good.';
