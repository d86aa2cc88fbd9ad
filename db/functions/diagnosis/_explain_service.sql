-- Is anybody there for the job's queue, with a handler and a free place? A worker counts that spoke
-- within three of its announcements. One in SQL need not announce itself: it shows by what it runs,
-- which is looked for where jobs are claimed first, and in the census. What runs altogether the
-- census tells, if there is one of the last half minute; else it is counted.
-- How many places one over HTTP has is not known, so where there is one nobody is said to be busy.
-- Behind a wall a worker that serves others, too, counts as being there; what it does is not told.
create or replace function rota._explain_service(
    job rota.live_jobs,
    at timestamptz,
    visible text[]
)
    returns setof rota.job_reason
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_census_at constant timestamptz := rota._census_at(at, interval '30 seconds');
    v_workers bigint;
    v_foreign bigint;
    v_knowing bigint;
    v_places bigint;
    v_overrun bigint;
    v_names text[];
    v_running bigint;
begin
    select
        count(*),
        count(*) filter (where not w.queues <@ visible),
        count(*) filter (where w.tasks is null or job.task = any(w.tasks)),
        case when count(w.concurrency) = count(*) then sum(w.concurrency) end,
        coalesce(sum(w.overrun), 0),
        array_agg(w.worker)
    into v_workers, v_foreign, v_knowing, v_places, v_overrun, v_names
    from rota.workers as w
    where w.stopped_at is null
        and w.last_seen_at > at - interval '90 seconds'
        and job.queue = any(w.queues);

    if v_workers = 0 then
        if not exists (
            select
            from (
                select o.state, o.lease_until
                from rota.live_jobs as o
                where o.queue = job.queue and ((o.counted and o.left_lane) is not true or o.counted)
                order by o.queue, o.priority desc, o.run_at, o.id
                limit 10000
            ) as o
            where o.state = 'RUNNING' and o.lease_until >= at
        ) and not exists (
            select
            from rota.census as c
            where v_census_at is not null and c.queue = job.queue and c.running > c.lost
        ) then
            return next row(
                true,
                'NO_WORKER',
                format(
                    'No worker serves queue %s%s.', job.queue,
                    (
                        select format(
                            '; those that are alive serve %s',
                            string_agg(distinct u.queue, ', ' order by u.queue)
                        )
                        from rota.workers as w
                        cross join unnest(w.queues) as u(queue)
                        where visible is null
                            and w.stopped_at is null
                            and w.last_seen_at > at - interval '90 seconds'
                        having count(*) > 0
                    )
                ),
                'rota worker --queues ' || rota._shell_word(job.queue),
                jsonb_build_object('last_served_at', (
                    select max(w.last_seen_at)
                    from rota.workers as w
                    where job.queue = any(w.queues) and (visible is null or w.queues <@ visible)
                ))
            )::rota.job_reason;
        end if;

        return;
    end if;

    if v_knowing = 0 then
        return next row(
            true,
            'NO_HANDLER',
            format(
                'No worker of queue %s has a handler for task %s.', job.queue, job.task
            ),
            'Start a worker with the module of that handler (--tasks): it takes it at once.',
            jsonb_build_object('workers', v_workers)
        )::rota.job_reason;
        return;
    end if;

    if job.run_at > at or v_foreign > 0 then
        return;
    end if;

    if v_census_at is not null then
        select coalesce(sum(c.running), 0) into v_running
        from rota.census_workers as c
        where c.worker = any(v_names) and (visible is null or c.queue = any(visible));
    else
        select count(*) into v_running
        from rota.live_jobs as o
        where o.state = 'RUNNING'
            and o.worker = any(v_names)
            and (visible is null or o.queue = any(visible));
    end if;

    if v_running + v_overrun >= v_places then
        return next row(
            v_overrun >= v_places,
            case when v_overrun > 0 then 'OVERRUN' else 'BUSY' end,
            format(
                'All %s places of the %s workers of queue %s are taken: %s by jobs that run%s.',
                v_places, v_workers, job.queue, v_running,
                case when v_overrun > 0 then format(
                    ', %s by handlers that go on though their attempts are over', v_overrun
                ) end
            ),
            case when v_overrun > 0
                then 'Restart those workers; have the handlers look at job.cancelled.'
                else 'Start more workers, or raise --concurrency.'
            end,
            jsonb_build_object(
                'workers', v_workers,
                'places', v_places,
                'running', v_running,
                'overrun', v_overrun
            )
        )::rota.job_reason;
    end if;
end;
$$;

comment on function rota._explain_service is
    'Say whether the workers of a job''s queue can take it.';
