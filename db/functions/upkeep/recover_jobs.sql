-- One session at a time: who recovers holds the row of this chore, which only our functions can
-- lock; another gets 0 at once and loses nothing. A look without a lock comes first, so where no
-- lease has run out nothing is locked or written. What was seen may have changed by the time that
-- the row is ours: the statement that locks a job checks on its newest version that its lease has
-- run out still, so a heartbeat or a finish that came first is never overwritten; a row whose
-- holder is in the midst of finishing, or holds its lease (hold_lease), is passed by.
-- A plain scan, and one only: an index on the lease would make every claim dearer, and this table
-- is small. A row that has moved since is left to the next call. Backoff and next slot are total,
-- so no row stops the others.
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
    v_lost tid[];
    v_ids bigint[];
    v_tokens uuid[];
    v_number integer := 0;
begin
    if max_jobs is null or max_jobs not between 1 and 100000 then
        raise exception 'max_jobs must be from 1 to 100000, not %', coalesce(max_jobs::text, 'null')
            using errcode = 'RTV01';
    end if;

    v_lost := array(
        select j.ctid
        from rota.live_jobs as j
        where j.state = 'RUNNING' and j.lease_until < v_now
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
        select array_agg(lost.id), array_agg(lost.token) into v_ids, v_tokens
        from (
            select j.id, j.token
            from rota.live_jobs as j
            where j.ctid = any(v_lost[v_first:v_first + 99])
                and j.state = 'RUNNING'
                and j.lease_until < v_now
            order by j.id
            for no key update skip locked
        ) as lost;

        v_number := v_number + (
            select count(*) from rota._end_attempts(v_ids, v_tokens, ending => 'LOST')
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
    'Take back jobs whose leases ran out, and return how many; call again until it returns 0.';
