-- A run under way ends as it would, and what follows it waits (_next_slot).
create or replace function rota.pause_schedule(name text)
    returns rota.job_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_job rota.live_jobs := rota._lock_schedule(name);
begin
    perform rota._record_action('pause_schedule', v_job.id, v_job.queue, name);

    update rota.schedules as s
    set paused_at = rota._now()
    where s.job_id = v_job.id and s.paused_at is null;

    update rota.live_jobs as j
    set run_at = 'infinity'
    where j.id = v_job.id and j.state = 'SCHEDULED';

    return row(v_job.id, v_job.state, null)::rota.job_outcome;
end;
$$;

comment on function rota.pause_schedule is
    'Start no more runs of a schedule until it is resumed.';
