-- depends: 0140_waiting

-- Jobs that wait for jobs. A job of no workflow has no row in any of these tables.
create table if not exists rota.workflows (
    id bigint not null default nextval('rota.job_ids'),
    name text,
    created_at timestamptz not null,
    cancelled_at timestamptz,

    constraint workflows_pkey primary key (id),
    constraint name_of_1_to_200_characters check (length(name) between 1 and 200)
);

create index if not exists workflows_by_age
    on rota.workflows (created_at);

-- The record of the graph: written when it is enqueued, read by views, parent_results and retries.
create table if not exists rota.workflow_jobs (
    job_id bigint not null,
    workflow_id bigint not null,
    node text,
    depends_on bigint[] not null,
    if_parent_fails text not null,
    ended_by bigint,  -- the job whose end cancelled it; who retries that one brings it back

    constraint workflow_jobs_pkey primary key (job_id),
    constraint node_of_1_to_200_characters check (length(node) between 1 and 200),
    constraint known_if_parent_fails check (if_parent_fails in ('cancel', 'run'))
);

create index if not exists workflow_jobs_by_workflow
    on rota.workflow_jobs (workflow_id, job_id);

create index if not exists workflow_jobs_ended_by
    on rota.workflow_jobs (ended_by) where ended_by is not null;

-- The edges that are open: each from when its child is enqueued until its parent ends, and not a
-- moment longer. One may lead to a job that was cancelled meanwhile, and goes with its parent, too.
create table if not exists rota.job_dependencies (
    parent_id bigint not null,
    child_id bigint not null,
    if_parent_fails text not null,

    constraint job_dependencies_pkey primary key (parent_id, child_id)
) with (
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

-- One row for each WAITING job, and the lock under which it is changed. Not a column of live_jobs,
-- where 10,000 parents would write the payload of their child anew 10,000 times.
create table if not exists rota.job_waits (
    job_id bigint not null,
    open integer not null,  -- how many edges lead to it

    constraint job_waits_pkey primary key (job_id),
    constraint open_not_negative check (open > 0)
) with (
    fillfactor = 20,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

do $$
begin
    if to_regtype('rota.workflow_item') is null then
        create type rota.workflow_item as (
            place bigint,
            id bigint,
            task text,
            payload jsonb,
            queue text,
            run_at timestamptz,
            priority integer,
            max_retries integer,
            timeout interval,
            unique_key text,
            headers jsonb,
            key text,
            node text,
            depends_on jsonb,
            if_parent_fails text
        );
    end if;

    if to_regtype('rota.enqueued_node') is null then
        create type rota.enqueued_node as (
            workflow_id bigint,
            job_id bigint,
            node text,
            state text
        );
    end if;

    if to_regtype('rota.parent_result') is null then
        create type rota.parent_result as (
            job_id bigint,
            node text,
            state text,
            result jsonb,
            error text
        );
    end if;

    if to_regtype('rota.held_jobs') is null then
        create type rota.held_jobs as (
            live bigint[],
            completed bigint[],
            failed bigint[]
        );
    end if;

    if to_regtype('rota.revivable_jobs') is null then
        create type rota.revivable_jobs as (
            ids bigint[],
            waiting bigint[]
        );
    end if;
end;
$$;
