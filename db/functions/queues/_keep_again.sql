-- At once, where maintain would come to it within the hour: what completes meanwhile would be gone,
-- against what was asked for. The other way round can wait. Lock order: after settings and the row
-- of the queue.
create or replace function rota._keep_again(queue text)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    update rota.lanes as l
    set unkept = null
    where l.unkept
        and (_keep_again.queue is null or l.queue = _keep_again.queue)
        and rota._keeps_nothing(l.queue) is not true;
end;
$$;

comment on function rota._keep_again is
    'Have claims keep what completes in a queue, or in all, unless it is still to keep nothing.';
