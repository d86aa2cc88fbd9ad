-- Lock order: the queue's row, then its lanes. An enqueue locks neither, and one that is under way
-- cannot be seen: it may have found its lane before we came, and commit its job after us. So lanes
-- are marked and not removed. Claims walk marked lanes too, hence that job is found; from our
-- commit on an enqueue passes by the marks and adds a lane of its own. Without a row in queues the
-- settings are the built-in ones again, and nothing is paused.
create or replace function rota.delete_queue(queue text)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform rota._check_wall(queue);

    if not rota._is_queue(queue) then
        perform rota._refuse_no_queue(queue);
    end if;

    delete from rota.queues as q
    where q.name = delete_queue.queue;

    if exists (select from rota.live_jobs as j where j.queue = delete_queue.queue) then
        raise exception 'queue % has live jobs', queue
            using errcode = 'RTC01',
                  hint = 'Let them end, or cancel them, and then delete the queue.';
    end if;

    update rota.lanes as l
    set retired_at = rota._now()
    where l.queue = delete_queue.queue and l.retired_at is null;

    perform rota._record_action('delete_queue', queue => queue);
end;
$$;

comment on function rota.delete_queue is
    'Forget a queue without live jobs, with its settings; the history of its jobs stays.';
