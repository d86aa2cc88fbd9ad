-- One session at a time: who recovers holds the row of this chore, which only our functions can
-- lock; another gets 0 at once and loses nothing. A look without a lock comes first, so where
-- nothing is lost nothing is locked or written. What was seen may have changed by the time that the
-- row is ours: the statement that locks a job checks on its newest version that it is lost still,
-- so a finish that came first is never overwritten, nor a heartbeat but one of a worker that comes
-- back while this very statement takes it for dead; a row whose holder is in the midst of
-- finishing, or holds its lease (hold_lease), is passed by.
-- A plain scan, and one only: an index on the lease would make every claim dearer, and this table
-- is small. A row that has moved since is left to the next call. Backoff and next slot are total,
-- so no row stops the others.
--
-- Lost are the jobs whose leases ran out, and those of a worker that was taken for dead
-- (recover_workers), but for what it started after it was seen to be gone: then it lives, and is
-- about to say so. Of a dead worker only jobs of the queues that it announced are, so that who has
-- learned another's name, announces it and dies takes nothing from anybody else. A first attempt
-- that a dead worker lost starts again at once, for that is rarely the job's fault; a job that
-- kills its workers waits after the next as after any failure.
--
-- Jobs are taken back a hundred at a time, for a second: what one of them takes is not in our hands
-- (a payload of megabytes that is moved, a slot that is computed), and a call that goes on until it
-- is cut off has done nothing. Who gets more than 0 calls again at once, for there may be more.
-- Lock order: the chore, then jobs by id.
create or replace function rota.recover_jobs(max_jobs integer default 1000)
    returns integer
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_began constant timestamptz := clock_timestamp();
    v_now constant timestamptz := rota._now();
    v_dead text[];
    v_lost tid[];
    v_ids bigint[];
    v_tokens uuid[];
    v_errors text[];
    v_at_once boolean[];
    v_number integer := 0;
begin
    if max_jobs is null or max_jobs not between 1 and 100000 then
        raise exception 'max_jobs must be from 1 to 100000, not %', coalesce(max_jobs::text, 'null')
            using errcode = 'RTV01';
    end if;

    v_dead := array(
        select w.worker
        from rota.workers as w
        where w.gone_at is not null and w.stopped_at is not null
    );

    v_lost := array(
        select j.ctid
        from rota.live_jobs as j
        where j.state = 'RUNNING'
            and (j.lease_until < v_now or j.worker = any(v_dead) and j.started_at < (
                select w.gone_at
                from rota.workers as w
                where w.worker = j.worker and j.queue = any(w.queues)
            ))
        order by j.id
        limit max_jobs
    );

    if v_lost = '{}' then
        return 0;
    end if;

    if not rota._take_chore('recover_jobs') then
        return 0;
    end if;

    for v_first in 1..cardinality(v_lost) by 100 loop
        select
            array_agg(l.id), array_agg(l.token), array_agg(l.error), array_agg(l.at_once)
        into v_ids, v_tokens, v_errors, v_at_once
        from (
            select
                j.id,
                j.token,
                format(
                    case when j.lease_until < v_now
                        then 'the lease of worker %s ran out'
                        else 'worker %s died'
                    end,
                    j.worker
                ) as error,
                j.lease_until >= v_now and j.attempt = 1 as at_once
            from rota.live_jobs as j
            where j.ctid = any(v_lost[v_first:v_first + 99])
                and j.state = 'RUNNING'
                and (j.lease_until < v_now or j.started_at < (
                    select w.gone_at
                    from rota.workers as w
                    where w.worker = j.worker and w.stopped_at is not null
                ))
            order by j.id
            for no key update skip locked
        ) as l;

        v_number := v_number + (
            select count(*)
            from (
                select
                    array_agg(u.id) as ids,
                    array_agg(u.token) as tokens,
                    array_agg(u.error) as errors,
                    case when u.at_once then interval '0' end as retry_in
                from unnest(v_ids, v_tokens, v_errors, v_at_once)
                    as u(id, token, error, at_once)
                group by u.at_once
            ) as g
            cross join lateral rota._end_attempts(
                g.ids, g.tokens, g.errors, ending => 'LOST', retry_in => g.retry_in
            )
        );
        exit when clock_timestamp() > v_began + interval '1 second';
    end loop;

    if v_number = 0 then
        return 0;
    end if;

    update rota.chores as c
    set ran_at = v_now,
        took = clock_timestamp() - v_began
    where c.chore = 'recover_jobs';

    return v_number;
end;
$$;

comment on function rota.recover_jobs is
    'Take back the jobs of dead workers and those whose leases ran out, and return how many; call'
    ' again until it returns 0.';
