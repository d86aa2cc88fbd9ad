-- Locks: the parents that exist already (_hold_parents), then new rows, in the order in which
-- whoever waits at the index of unique keys does. The lanes of jobs that wait are there before the
-- jobs are scheduled. after is the job whose end adds these (finish_job): of those that depend on
-- nothing else it is the parent. It has completed, so it is noted, and nothing waits.
create or replace function rota._add_workflow(
    items rota.workflow_item[],
    name text,
    after bigint
)
    returns setof rota.enqueued_node
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._enqueue_time();
    v_named bigint[] := rota._named_parents(items);
    v_parents rota.held_jobs;
    v_place bigint;
    v_id bigint;
    v_workflow bigint;
    v_nodes rota.enqueued_node[];
begin
    perform from rota.queue_walls;

    if found then
        perform rota._check_wall(q.queue)
        from (select distinct i.queue from unnest(items) as i order by 1) as q;
    end if;

    if v_named <> '{}' then
        v_parents := rota._hold_parents(v_named);

        select i.place - 1, p.id into v_place, v_id
        from unnest(items) as i
        cross join lateral unnest(rota._named_parents(array[i])) as n(id)
        join unnest(v_parents.failed) as p(id) on p.id = n.id
        where i.if_parent_fails = 'cancel'
        order by 1, 2
        limit 1;

        if found then
            raise exception 'jobs[%]: job %, on which it depends, did not complete', v_place, v_id
                using errcode = 'RTC01';
        end if;
    end if;

    insert into rota.workflows as w (name, created_at)
    values (_add_workflow.name, v_now)
    returning w.id into v_workflow;

    with item as materialized (
        select
            i.place, nextval('rota.job_ids') as id, i.task, i.payload, i.queue, i.run_at,
            i.priority, i.max_retries, i.timeout, i.unique_key, nullif(i.headers, '{}') as headers,
            i.key, i.node, i.depends_on, i.if_parent_fails
        from unnest(items) as i
    ), parent as materialized (
        select i.id as child_id, i.if_parent_fails, e.parent
        from item as i
        cross join lateral jsonb_array_elements(
            case when jsonb_typeof(i.depends_on) = 'array' then i.depends_on else '[]' end
        ) as e(parent)
    ), edge as materialized (
        select p.child_id, n.id as parent_id, p.if_parent_fails
        from parent as p
        join item as n on n.node = p.parent #>> '{}'
        where jsonb_typeof(p.parent) = 'string'
        union
        select p.child_id, p.parent::bigint, p.if_parent_fails
        from parent as p
        where jsonb_typeof(p.parent) = 'number'
        union
        select i.id, n.id, i.if_parent_fails
        from item as i
        join item as n on n.place < i.place
        where i.depends_on = '"all"'
        union
        select i.id, n.id, i.if_parent_fails
        from item as i
        join item as n on n.place = i.place - 1
        where i.depends_on = '"previous"'
        union
        select i.id, after, i.if_parent_fails
        from item as i
        where i.depends_on = '[]' and after is not null
    ), open as materialized (
        select e.child_id, e.parent_id, e.if_parent_fails
        from edge as e
        left join unnest(v_parents.completed || v_parents.failed || after) as p(id)
            on p.id = e.parent_id
        where p.id is null
    ), edges as (
        insert into rota.job_dependencies (parent_id, child_id, if_parent_fails)
        select o.parent_id, o.child_id, o.if_parent_fails
        from open as o
        order by o.parent_id, o.child_id
    ), child as materialized (
        select o.child_id as id, count(*)::integer as edges
        from open as o
        group by o.child_id
    ), waits as (
        insert into rota.job_waits (job_id, open)
        select c.id, c.edges
        from child as c
        order by c.id
    ), graph as (
        insert into rota.workflow_jobs (job_id, workflow_id, node, depends_on, if_parent_fails)
        select i.id, v_workflow, i.node, coalesce(d.parents, '{}'), i.if_parent_fails
        from item as i
        left join (
            select e.child_id, array_agg(e.parent_id order by e.parent_id) as parents
            from edge as e
            group by e.child_id
        ) as d on d.child_id = i.id
        order by i.place
    ), added as (
        insert into rota.live_jobs as j (
            id, task, payload, queue, priority, state, run_at, scheduled_for, max_retries, timeout,
            unique_key, created_at, headers, key, linked
        )
        select
            i.id,
            i.task,
            i.payload,
            i.queue,
            i.priority,
            case when c.id is null then 'SCHEDULED' else 'WAITING' end,
            case when c.id is null then coalesce(i.run_at, v_now) else 'infinity' end,
            coalesce(i.run_at, v_now),
            coalesce(i.max_retries, q.max_retries, 3),
            coalesce(i.timeout, q.timeout),
            i.unique_key,
            v_now,
            i.headers,
            i.key,
            case when p.id is not null then true end
        from item as i
        left join child as c on c.id = i.id
        left join (select distinct o.parent_id as id from open as o) as p on p.id = i.id
        left join rota.queues as q on q.name = i.queue
        order by i.unique_key collate "C" nulls first, i.queue collate "C", i.place
        on conflict ((j.unique_key), (j.queue)) where j.unique_key is not null do nothing
        returning j.id, j.state
    )
    select array_agg(
        row(v_workflow, i.id, i.node, a.state)::rota.enqueued_node order by i.place
    )
    into v_nodes
    from item as i
    left join added as a on a.id = i.id;

    select n.place - 1 into v_place
    from unnest(v_nodes) with ordinality as n(workflow_id, job_id, node, state, place)
    where n.state is null
    order by n.place
    limit 1;

    if found then
        raise exception 'jobs[%]: another live job of queue % holds its unique_key', v_place,
            items[v_place + 1].queue
            using errcode = 'RTC03';
    end if;

    perform
        rota._use_lane(l.queue, l.priority, l.keyed),
        case when l.first_run_at is not null then rota._wake(l.queue, l.first_run_at, v_now) end
    from (
        select
            i.queue,
            i.priority,
            i.key is not null as keyed,
            min(coalesce(i.run_at, v_now)) filter (where n.state = 'SCHEDULED') as first_run_at
        from unnest(items) as i
        join unnest(v_nodes) with ordinality as n(workflow_id, job_id, node, state, place)
            on n.place = i.place
        group by i.queue, i.priority, i.key is not null
    ) as l;

    return query
    select n.* from unnest(v_nodes) as n;
end;
$$;

comment on function rota._add_workflow is
    'Add the jobs of a workflow, and what each waits for.';
