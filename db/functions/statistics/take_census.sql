-- One pass over live_jobs and one over those that run, without a sort and without a lock: a claim
-- or a finish does not notice. One session at a time, which holds the chore's row; another returns
-- at once. Whether it is time is asked before anything is locked, and again under the lock.
-- However often it is called, and by however many, it takes a hundredth of a core at most (a tenth
-- with force): it is left out while the last one is not a hundred times as old as it took, ten
-- minutes at most. One of the future, of a clock that was put back, is none.
-- Rows that are as they were are not written again, for an old snapshot keeps each version: a house
-- in which nothing happens writes the chore's row only. If this process dies on any line, the last
-- census stands.
create or replace function rota.take_census(
    older_than interval default '5 seconds',
    force boolean default false
)
    returns boolean
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_began constant timestamptz := clock_timestamp();
    v_now constant timestamptz := rota._now();
    v_times constant integer := case when force then 10 else 100 end;
begin
    if older_than is null or older_than not between interval '0' and interval '1 day' then
        raise exception 'older_than must be from 0 to 1 day, not %',
            coalesce(rota._span_text(older_than), 'null')
            using errcode = 'RTV01';
    end if;

    if not rota._is_census_due(v_now, older_than, v_times)
        or not rota._take_chore('take_census')
        or not rota._is_census_due(v_now, older_than, v_times)
    then
        return false;
    end if;

    with counted as materialized (
        select n.* from rota._count_live(v_now) as n
    ), gone as (
        delete from rota.census as c
        where (c.queue, c.task, c.priority) not in (
            select n.queue, n.task, n.priority from counted as n
        )
    ), changed as (
        update rota.census as c
        set scheduled = n.scheduled,
            due = n.due,
            retrying = n.retrying,
            running = n.running,
            lost = n.lost,
            overdue = n.overdue,
            oldest_due_at = n.oldest_due_at,
            lost_since = n.lost_since,
            overdue_since = n.overdue_since,
            no_room = n.no_room,
            oldest_with_room_at = n.oldest_with_room_at,
            waiting = n.waiting
        from counted as n
        where (n.queue, n.task, n.priority) = (c.queue, c.task, c.priority)
            and (
                n.scheduled, n.due, n.retrying, n.running, n.lost, n.overdue, n.oldest_due_at,
                n.lost_since, n.overdue_since, n.no_room, n.oldest_with_room_at,
                n.waiting
            ) is distinct from (
                c.scheduled, c.due, c.retrying, c.running, c.lost, c.overdue, c.oldest_due_at,
                c.lost_since, c.overdue_since, c.no_room, c.oldest_with_room_at,
                c.waiting
            )
    )
    insert into rota.census (
        queue, task, priority, scheduled, due, retrying, running, lost, overdue, oldest_due_at,
        lost_since, overdue_since, no_room, oldest_with_room_at, waiting
    )
    select
        n.queue, n.task, n.priority, n.scheduled, n.due, n.retrying, n.running, n.lost, n.overdue,
        n.oldest_due_at, n.lost_since, n.overdue_since, n.no_room, n.oldest_with_room_at,
        n.waiting
    from counted as n
    where (n.queue, n.task, n.priority) not in (
        select c.queue, c.task, c.priority from rota.census as c
    );

    with counted as materialized (
        select
            r.worker,
            r.queue,
            count(*) as running,
            (array_agg(r.id order by r.started_at, r.id))[:20] as longest_running
        from (
            select j.worker, j.queue::text as queue, j.id, j.started_at
            from rota.live_jobs as j
            where j.state = 'RUNNING'
        ) as r
        group by r.worker, r.queue
    ), gone as (
        delete from rota.census_workers as c
        where (c.worker, c.queue) not in (select n.worker, n.queue from counted as n)
    ), changed as (
        update rota.census_workers as c
        set running = n.running,
            longest_running = n.longest_running
        from counted as n
        where (n.worker, n.queue) = (c.worker, c.queue)
            and (n.running, n.longest_running) is distinct from (c.running, c.longest_running)
    )
    insert into rota.census_workers (worker, queue, running, longest_running)
    select n.worker, n.queue, n.running, n.longest_running
    from counted as n
    where (n.worker, n.queue) not in (select c.worker, c.queue from rota.census_workers as c);

    insert into rota.depths (
        minute, seconds, queue, scheduled, due, running, oldest_due_seconds
    )
    select
        date_trunc('minute', v_now, 'UTC'),
        60,
        c.queue,
        sum(c.scheduled),
        sum(c.due),
        sum(c.running),
        extract(epoch from v_now - min(c.oldest_due_at))
    from rota.census as c
    group by c.queue
    on conflict do nothing;

    update rota.chores as c
    set ran_at = v_now,
        took = clock_timestamp() - v_began
    where c.chore = 'take_census';

    return true;
end;
$$;

comment on function rota.take_census is
    'Count what waits and runs, if the last count is old enough, and say whether it was done.';
