-- One session at a time; another gets 0 at once and loses nothing. The statement that locks a row
-- checks on its newest version that the lease has run out still, so a heartbeat or a finish that
-- came first is never overwritten; a row whose holder is in the midst of finishing, or holds its
-- lease (hold_lease), is passed by. A plain scan: an index on the lease would make every claim
-- dearer, and this table is small. Backoff and next slot are total, so no row stops the others.
create or replace function rota.recover_jobs(max_jobs integer default 1000)
    returns integer
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_ids bigint[];
    v_tokens uuid[];
begin
    if max_jobs is null or max_jobs not between 1 and 100000 then
        raise exception 'max_jobs must be from 1 to 100000, not %', coalesce(max_jobs::text, 'null')
            using errcode = 'RTV01';
    end if;

    if not pg_try_advisory_xact_lock(hashtextextended('rota.recover_jobs', 0)) then
        return 0;
    end if;

    select array_agg(lost.id), array_agg(lost.token) into v_ids, v_tokens
    from (
        select j.id, j.token
        from rota.live_jobs as j
        where j.state = 'RUNNING' and j.lease_until < v_now
        order by j.id
        limit max_jobs
        for no key update skip locked
    ) as lost;

    return (
        select count(*) from rota._end_attempts(v_ids, v_tokens, ending => 'LOST')
    );
end;
$$;

comment on function rota.recover_jobs is
    'Take back the jobs whose leases ran out, and return how many.';
