-- One row, locked by the update or the upsert. Claims that began before the commit may still take
-- jobs; later ones see the pause. Jobs that run go on. A name that nobody uses is refused, for it
-- is misspelt more often than not; who wants a queue paused before its first job configures it
-- first. A deletion that commits between the look for the queue and the upsert has come first: the
-- queue is there again, paused.
create or replace function rota.pause_queue(queue text)
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

    insert into rota.queues as q (name, paused_at)
    values (queue, rota._now())
    on conflict (name) do update
    set paused_at = coalesce(q.paused_at, excluded.paused_at);

    perform rota._record_action('pause_queue', queue => queue);
end;
$$;

comment on function rota.pause_queue is
    'Stop claims from a queue until it is resumed; jobs can still be added to it.';
