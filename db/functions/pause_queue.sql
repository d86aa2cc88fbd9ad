-- One row, locked by the upsert. Claims that began before the commit may still take jobs; later
-- ones see the pause. Jobs that run go on.
create or replace function rota.pause_queue(queue text)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform rota._check_queue(queue);

    insert into rota.queues as q (name, paused_at)
    values (queue, rota._now())
    on conflict (name) do update
    set paused_at = coalesce(q.paused_at, excluded.paused_at);
end;
$$;

comment on function rota.pause_queue is
    'Stop claims from a queue until it is resumed; jobs can still be added to it.';
