-- A part of the statements of _thin_blocks, as text: what has run out in blocks of a partition, and
-- of it what is kept for a workflow that goes on. $1 and $2 are the first place and the one after
-- the last, $3 the classes that have run out: C for what completed or succeeded, F for the rest,
-- and behind a colon the queue, if it has a time of its own for that. An attempt goes at the latest
-- when its job has gone.
create or replace function rota._ran_out(parent text, part text)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format(
        'with live as (
            select distinct n.workflow_id
            from rota.workflow_jobs as n
            join rota.live_jobs as j on j.id = n.job_id
        ), known as materialized (
            select n.job_id as id
            from live as l
            join rota.workflow_jobs as n on n.workflow_id = l.workflow_id
            union
            select d.id
            from live as l
            join rota.workflow_jobs as n on n.workflow_id = l.workflow_id
            cross join lateral unnest(n.depends_on) as d(id)
        ), ran_out as materialized (
            select
                f.ctid as place,
                c.completed,
                f.%2$I in (select k.id from known as k) as is_known
            from only rota.%1$I as f %3$s
            cross join lateral (select f.%4$s) as c(completed)
            left join rota.queues as q on q.name = j.queue
            where f.ctid >= $1
                and f.ctid < $2
                and (
                    j.queue is null
                    or case when c.completed then ''C'' else ''F'' end || case
                        when case when c.completed then q.keep_completed else q.keep_failed end
                                is not null
                            then '':'' || q.name
                        else ''''
                    end = any($3)
                )
        )',
        part,
        case parent when 'attempts' then 'job_id' else 'id' end,
        case parent
            when 'attempts' then
                'left join lateral (
                    select l.queue::text
                    from rota.live_jobs as l
                    where l.id = f.job_id
                    union all
                    select e.queue
                    from rota.finished_jobs as e
                    where e.id = f.job_id
                    limit 1
                ) as j(queue) on true'
            else 'cross join lateral (select f.queue) as j(queue)'
        end,
        case parent when 'attempts' then 'outcome = ''SUCCEEDED''' else 'state = ''COMPLETED''' end
    )
$$;

comment on function rota._ran_out is
    'Write the statement that finds what has run out in a partition of history.';
