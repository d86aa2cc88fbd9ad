-- What the views ask before they show a row; whoever reads a view calls it by his own right.
-- Every queue that has or had a job has a lane, so these are all that any row can be of. Names
-- that workers announced count, too: a worker may come before the first job of its queue.
-- Reads only. One look at an empty table where there are no walls.
create or replace function rota.visible_queues()
    returns text[]
    language plpgsql
    stable
    parallel safe
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_walls rota.queue_walls[];
begin
    perform from rota.queue_walls;

    if not found then
        return null;
    end if;

    v_walls := array(select w from rota._binding_walls() as w);

    if v_walls = '{}' then
        return null;
    end if;

    return rota._let_through(
        array(
            select n.name
            from (
                select l.queue from rota.lanes as l
                union
                select q.name from rota.queues as q
                union
                select u.queue from rota.workers as w cross join unnest(w.queues) as u(queue)
            ) as n(name)
            order by n.name collate "C"
        ),
        v_walls
    );
end;
$$;

comment on function rota.visible_queues is
    'Name the queues that the caller may see; null for all of them.';
