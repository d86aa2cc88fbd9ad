drop function if exists rota._matches(
    rota.job_filter, bigint, text, text, text, text, text, timestamptz, timestamptz
);

-- Written so that the planner can put it in the place of its call, and leave out what is not asked
-- for. Of no filter everything is.
create or replace function rota._matches(
    filter rota.job_filter,
    id bigint,
    state text,
    queue text,
    task text,
    schedule_type text,
    unique_key text,
    key text,
    run_at timestamptz,
    finished_at timestamptz
)
    returns boolean
    language sql
    stable
as $$
    select (filter.ids is null or id = any(filter.ids))
        and (filter.state is null or state = any(filter.state))
        and (filter.queue is null or queue = filter.queue)
        and (filter.task is null or task = filter.task)
        and (filter.schedule_type is null or schedule_type = filter.schedule_type)
        and (filter.unique_key is null or unique_key = filter.unique_key)
        and (filter.key is null or key = filter.key)
        and (filter.run_at_from is null or run_at >= filter.run_at_from)
        and (filter.run_at_before is null or run_at < filter.run_at_before)
        and (filter.finished_at_from is null or finished_at >= filter.finished_at_from)
        and (filter.finished_at_before is null or finished_at < filter.finished_at_before)
$$;

comment on function rota._matches is
    'Tell whether a job is one of those that a filter asks for.';
