-- As release_job, for jobs that a worker has no handler for. They are put off for want of a worker
-- that has one, and are marked as such, so that one which starts can bring them forward
-- (bring_forward_jobs); for a short time only while a live worker of their queue says that it has a
-- handler (announce_worker). Short is not never: each time such a job is met by a worker without
-- one that worker's time is spent, and a row of history.
--
-- That look at the workers may come too early for one that starts at the same moment, whose scan
-- may come too early for us: it scans again with its next announcement.
-- Lock order: the jobs' rows by id, then the marks, which are written only under a job's lock.
create or replace function rota.release_unhandled_jobs(
    job_ids bigint[],
    tokens uuid[],
    delay interval default '5 seconds',
    delay_if_known interval default '500 ms',
    reason text default null
)
    returns setof rota.finish_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_known bigint[];
    v_ended rota.ended_attempt[];
begin
    perform rota._check_delay('delay', delay);
    perform rota._check_delay('delay_if_known', delay_if_known);

    if cardinality(job_ids) is distinct from cardinality(tokens) then
        raise exception 'job_ids and tokens must have the same length'
            using errcode = 'RTV01';
    end if;

    perform
    from rota.live_jobs as j
    where j.id = any(job_ids)
        and (j.id, j.token) in (select * from unnest(job_ids, tokens))
    order by j.id
    for no key update;

    v_known := array(
        with kinds as materialized (
            select k.*, exists (
                select
                from rota.workers as w
                where w.stopped_at is null
                    and w.last_seen_at > v_now - interval '90 seconds'
                    and k.queue = any(w.queues)
                    and k.task = any(w.tasks)
            ) as known
            from (
                select distinct j.queue::text, j.task::text
                from rota.live_jobs as j
                where j.id = any(job_ids)
            ) as k
        )
        select j.id
        from rota.live_jobs as j
        join kinds as k on k.queue = j.queue and k.task = j.task
        where j.id = any(job_ids) and k.known
    );

    v_ended := array(
        select e
        from (
            select
                (u.job_id = any(v_known)) as known,
                array_agg(u.job_id) as ids,
                array_agg(u.token) as tokens,
                array_agg(reason) as reasons
            from unnest(job_ids, tokens) as u(job_id, token)
            group by 1
        ) as g
        cross join lateral rota._end_attempts(
            g.ids, g.tokens, g.reasons,
            ending => 'RELEASED',
            retry_in => case
                when g.known then coalesce(delay_if_known, '500 ms')
                else coalesce(delay, '5 seconds')
            end
        ) as e
    );

    insert into rota.unhandled_jobs as m (job_id, queue, task, until)
    select j.id, j.queue, j.task, j.run_at
    from rota.live_jobs as j
    where j.id = any(array(select e.job_id from unnest(v_ended) as e))
        and isfinite(j.run_at)
    on conflict ((m.job_id)) do update
    set queue = excluded.queue,
        task = excluded.task,
        until = excluded.until;

    return query
        select
            i.job_id,
            case
                when n.state = 'CANCELLED' then n.state
                when n.state is not null then 'RELEASED'
                else coalesce((
                    select p.outcome
                    from rota._past_ending(i.job_id, i.token) as p
                    where p.outcome in ('RELEASED', 'CANCELLED')
                ), 'LEASE_LOST')
            end
        from unnest(job_ids, tokens) with ordinality as i(job_id, token, place)
        left join unnest(v_ended) as n on n.job_id = i.job_id and n.token = i.token
        order by i.place;
end;
$$;

comment on function rota.release_unhandled_jobs is
    'Hand back running jobs for whose task their worker has no handler; not charged.';
