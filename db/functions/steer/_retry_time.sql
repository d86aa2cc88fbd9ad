-- The next slot of a schedule; one that was cancelled before its first run keeps its own.
create or replace function rota._retry_time(job rota.finished_jobs, at timestamptz)
    returns timestamptz
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_schedule rota.schedules;
begin
    if job.schedule_type = 'ONE_TIME' then
        return at;
    end if;

    select s.* into v_schedule
    from rota.schedules as s
    where s.job_id = job.id;

    return case
        when job.run >= v_schedule.max_runs then null
        when v_schedule.fixed_delay then at
        when job.attempt = 0 and job.scheduled_for > at then job.scheduled_for
        else rota._slot_after(v_schedule, greatest(job.scheduled_for, at))
    end;
end;
$$;

comment on function rota._retry_time is
    'Tell when a job would run that is retried now; null if its schedule is over.';
