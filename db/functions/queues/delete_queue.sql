-- Lock order: the queue's row, then its lanes. An enqueue locks neither, and one that is under way
-- cannot be seen: it may have found its lane before we came, and commit its job after us. So lanes
-- are marked and not removed. Claims walk marked lanes too, hence that job is found; from our
-- commit on an enqueue passes by the marks and adds a lane of its own. It may also rely on a turn:
-- so turns go only under the arrival locks (_post_turns), which are not waited for; what stays
-- leads nowhere, and goes with the next claim. Without a row in queues the settings are the
-- built-in ones again, and nothing is paused.
create or replace function rota.delete_queue(queue text)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_got integer[];
begin
    perform rota._check_wall(queue);

    if not rota._is_queue(queue) then
        perform rota._refuse_no_queue(queue);
    end if;

    delete from rota.queues as q
    where q.name = delete_queue.queue;

    if exists (
        select from rota.live_jobs as j
        where j.queue = delete_queue.queue and (j.counted and j.left_lane) is not true
    ) or exists (
        select from rota.live_jobs as j
        where j.queue = delete_queue.queue and j.counted
    ) then
        raise exception 'queue % has live jobs', queue
            using errcode = 'RTC01',
                  hint = 'Let them end, or cancel them, and then delete the queue.';
    end if;

    delete from rota.flows as f
    where f.queue = delete_queue.queue;

    delete from rota.flow_locks as l
    where l.queue = delete_queue.queue;

    v_got := array(
        select a.number
        from (
            select distinct rota._arrival(t.queue, t.key) as number
            from rota.turns as t
            where t.queue = delete_queue.queue
            offset 0
        ) as a
        where pg_try_advisory_xact_lock(rota._arrival_class(), a.number)
    );

    delete from rota.turns as t
    where t.ctid = any(array(
        select u.ctid
        from rota.turns as u
        where u.queue = delete_queue.queue
            and rota._arrival(u.queue, u.key) = any(v_got)
            and not exists (
                select from rota.live_jobs as j
                where j.queue = u.queue and (j.counted and j.left_lane) is not true
            )
            and not exists (
                select from rota.live_jobs as j where j.queue = u.queue and j.counted
            )
        for update skip locked
    ));

    delete from rota.unique_keys as k
    where k.ctid = any(array(
        select u.ctid
        from rota.unique_keys as u
        where u.queue = delete_queue.queue
        for update skip locked
    ));

    update rota.lanes as l
    set retired_at = rota._now(),
        unkept = null
    where l.queue = delete_queue.queue and l.retired_at is null;

    perform rota._record_action('delete_queue', queue => queue);
end;
$$;

comment on function rota.delete_queue is
    'Forget a queue without live jobs, with its settings; the history of its jobs stays.';
