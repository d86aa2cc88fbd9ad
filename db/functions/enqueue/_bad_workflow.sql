-- What enqueue_job would refuse of one of the jobs, and what is wrong between them.
create or replace function rota._bad_workflow(items rota.workflow_item[])
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with parent as (
        select i.place, i.id, e.parent, jsonb_typeof(e.parent) as type
        from unnest(items) as i
        cross join lateral jsonb_array_elements(
            case when jsonb_typeof(i.depends_on) = 'array' then i.depends_on else '[]' end
        ) as e(parent)
    )
    select format('jobs[%s]: %s', c.place - 1, c.complaint)
    from (
        select i.place, coalesce(
            rota._bad_job(
                i.task, i.payload, i.queue, i.run_at, i.priority, i.max_retries, i.timeout,
                i.unique_key, i.headers, i.key
            ),
            case
                when length(i.node) not between 1 and 200
                    then format('node must have 1 to 200 characters, not %s', length(i.node))
                when i.node ~ '[[:cntrl:]]'
                    then 'node must not contain control characters'
                when i.if_parent_fails not in ('cancel', 'run')
                    then format(
                        'if_parent_fails must be cancel or run, not %s',
                        left(i.if_parent_fails, 100)
                    )
                when jsonb_typeof(i.depends_on) <> 'array'
                    and i.depends_on not in ('"all"', '"previous"')
                    then 'depends_on must be an array of nodes and ids, or "all", or "previous"'
            end
        ) as complaint
        from unnest(items) as i
        union all
        select max(n.place), format('node %s stands twice', n.node)
        from unnest(items) as n
        where n.node is not null
        group by n.node
        having count(*) > 1
        union all
        select
            p.place,
            format('depends_on: %s is neither a node nor an id', left(p.parent::text, 100))
        from parent as p
        where p.type not in ('string', 'number')
        union all
        select
            p.place,
            format('depends_on: no job before this one is the node %s', p.parent #>> '{}')
        from parent as p
        left join unnest(items) as n on n.node = p.parent #>> '{}'
        where p.type = 'string' and (n.place is null or n.place >= p.place)
        union all
        select p.place, format('depends_on: %s is not the id of a job', left(p.parent::text, 100))
        from parent as p
        where p.type = 'number'
            and case when p.type = 'number'
                then p.parent::numeric not between 1 and 9223372036854775807
                    or p.parent::numeric % 1 <> 0
            end
        union all
        select
            e.place,
            format('%s edges lead to the jobs up to here, and at most 1000000 may', e.edges)
        from (
            select
                i.place,
                sum(case
                    when i.depends_on = '"all"' then i.place - 1
                    when jsonb_typeof(i.depends_on) = 'array'
                        then jsonb_array_length(i.depends_on)
                    else 1
                end) over (order by i.place) as edges
            from unnest(items) as i
        ) as e
        where e.edges > 1000000
    ) as c
    where c.complaint is not null
    order by c.place
    limit 1
$$;

comment on function rota._bad_workflow is
    'Say what is wrong with a workflow that somebody wants to enqueue, or return null.';
