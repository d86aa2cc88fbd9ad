-- As strict as enqueue_jobs: a misspelt key must not be a job that silently lacks an option, and
-- times are read the same way in every session. A job depends on such as stand before it, so there
-- is no cycle, and none is looked for. Nothing is written or locked.
create or replace function rota._read_workflow(jobs jsonb, parameter text)
    returns rota.workflow_item[]
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
    set datestyle = 'ISO, YMD'
    set intervalstyle = 'postgres'
as $$
declare
    v_complaint text;
    v_items rota.workflow_item[];
begin
    if jobs is null or jsonb_typeof(jobs) <> 'array' or jobs = '[]' then
        raise exception '% must be a JSON array of objects, at least one', parameter
            using errcode = 'RTV01';
    end if;

    begin
        select format('jobs[%s]: %s is not an argument of enqueue_workflow', o.place - 1, k.key)
        into v_complaint
        from (
            select
                e.place,
                e.job - array[
                    'task', 'payload', 'queue', 'run_at', 'priority', 'max_retries', 'timeout',
                    'unique_key', 'headers', 'key', 'node', 'depends_on', 'if_parent_fails'
                ] as unknown
            from jsonb_array_elements(jobs) with ordinality as e(job, place)
        ) as o
        cross join lateral jsonb_object_keys(o.unknown) as k(key)
        where o.unknown <> '{}'
        order by o.place, k.key collate "C"
        limit 1;

        if not found then
            select array_agg(
                row(
                    t.place,
                    null,
                    t.task,
                    coalesce(
                        t.payload,
                        case when t.job -> 'payload' = 'null' then jsonb 'null' else '{}' end
                    ),
                    coalesce(t.queue, 'default'),
                    t.run_at,
                    coalesce(t.priority, 0),
                    t.max_retries,
                    t.timeout,
                    t.unique_key,
                    t.headers,
                    t.key,
                    t.node,
                    coalesce(t.depends_on, '[]'),
                    coalesce(t.if_parent_fails, 'cancel')
                )::rota.workflow_item
                order by t.place
            )
            into v_items
            from rows from (
                jsonb_to_recordset(jobs) as (
                    task text, payload jsonb, queue text, run_at timestamptz, priority integer,
                    max_retries integer, timeout interval, unique_key text, headers jsonb, key text,
                    node text, depends_on jsonb, if_parent_fails text
                ),
                jsonb_array_elements(jobs)
            ) with ordinality as t(
                task, payload, queue, run_at, priority, max_retries, timeout, unique_key, headers,
                key, node, depends_on, if_parent_fails, job, place
            );

            v_complaint := rota._bad_workflow(v_items);
        end if;
    exception
        when data_exception then
            v_complaint := rota._unreadable_job(jobs);
    end;

    if v_complaint is not null then
        raise exception '%', regexp_replace(v_complaint, '^jobs', parameter)
            using errcode = 'RTV01';
    end if;

    return v_items;
end;
$$;

comment on function rota._read_workflow is
    'Read the jobs of a workflow; raise what is wrong with the first that is.';
