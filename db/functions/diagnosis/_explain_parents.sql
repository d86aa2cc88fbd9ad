-- For a job that waits for others. What is open are its edges, not its parents that live: one that
-- was settled, and comes back by a retry, is not waited for again. Of parents behind a wall of the
-- caller no more is said than their ids and states, as parent_results does.
create or replace function rota._explain_parents(job rota.live_jobs, visible text[])
    returns rota.job_reason
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_parents bigint;
    v_open bigint;
    v_jobs jsonb;
    v_names text;
    v_one bigint;
begin
    select cardinality(w.depends_on) into v_parents
    from rota.workflow_jobs as w
    where w.job_id = job.id;

    select
        count(*),
        jsonb_agg(jsonb_build_object('id', o.id, 'state', o.state) order by o.id)
            filter (where o.place <= 10),
        string_agg(format('%s (%s)', o.id, o.state), ', ' order by o.id)
            filter (where o.place <= 10),
        min(o.id) filter (where visible is null or o.queue = any(visible))
    into v_open, v_jobs, v_names, v_one
    from (
        select
            j.id,
            j.state::text as state,
            j.queue::text as queue,
            row_number() over (order by j.id) as place
        from rota.workflow_jobs as w
        cross join lateral unnest(w.depends_on) as p(id)
        join rota.job_dependencies as d on d.parent_id = p.id and d.child_id = w.job_id
        join rota.live_jobs as j on j.id = d.parent_id
        where w.job_id = job.id
    ) as o;

    if v_open = 0 then
        return row(
            true,
            'LOST_PARENTS',
            'It waits for other jobs, but none that lives leads to it.',
            'select maintain(), which settles what waits for jobs that are gone.',
            jsonb_build_object('parents', v_parents)
        )::rota.job_reason;
    end if;

    return row(
        true,
        'WAITS_FOR_PARENTS',
        format(
            'It waits for %s of %s parents: %s %s%s.',
            v_open,
            v_parents,
            case when v_open = 1 then 'job' else 'jobs' end,
            v_names,
            case when v_open > 10 then ', ...' end
        ),
        case
            when v_one is null then 'Let them end: they are of queues that you do not see.'
            else format('select * from explain_job(%s)', v_one)
        end,
        jsonb_build_object('parents', v_parents, 'open', v_open, 'jobs', v_jobs)
    )::rota.job_reason;
end;
$$;

comment on function rota._explain_parents is
    'Say for which jobs one waits.';
