-- depends: 0141_workflows

-- What a job has done so far, so that its next attempt need not do it again. A schedule's runs are
-- each their own; all runs of a one-time job are one (0), for who retries it wants to go on.
create table if not exists rota.job_steps (
    job_id bigint not null,
    run bigint not null,
    step text not null,
    result jsonb,
    recorded_at timestamptz not null,

    constraint job_steps_pkey primary key (job_id, run, step),
    constraint step_of_1_to_200_characters check (length(step) between 1 and 200)
);

create index if not exists job_steps_by_age
    on rota.job_steps (recorded_at);

-- Where those who await an event and those who emit it meet. emitted_at is null while nobody has
-- emitted it, and somebody waits.
create table if not exists rota.events (
    name text not null,
    payload jsonb,
    emitted_at timestamptz,
    noted_at timestamptz not null,

    constraint events_pkey primary key (name),
    constraint name_of_1_to_200_characters check (length(name) between 1 and 200)
);

create index if not exists events_by_age
    on rota.events (noted_at);

create table if not exists rota.event_waits (
    event text not null,
    job_id bigint not null,
    run bigint not null,  -- as in job_steps
    step text not null,
    until timestamptz not null,  -- where the job stands, unless it has gone on since

    constraint event_waits_pkey primary key (event, job_id)
);

create index if not exists event_waits_by_job
    on rota.event_waits (job_id);

do $$
begin
    if to_regtype('rota.recorded_step') is null then
        create type rota.recorded_step as (
            step text,
            result jsonb,
            recorded_at timestamptz
        );
    end if;

    if to_regtype('rota.awaited_event') is null then
        create type rota.awaited_event as (
            state text,
            payload jsonb
        );
    end if;
end;
$$;
