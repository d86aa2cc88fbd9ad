create or replace function rota._step_run(schedule_type text, run bigint)
    returns bigint
    language sql
    immutable
as $$
    select case when schedule_type = 'ONE_TIME' then 0 else run end
$$;

comment on function rota._step_run is
    'Tell to which run the steps of a job belong: those of a one-time job to all of them.';
