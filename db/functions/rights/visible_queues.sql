-- What the views ask before they show a row; whoever reads a view calls it by his own right.
-- Every queue that has or had a job has a lane, so these are all that any row can be of. Names
-- that workers announced count, too: a worker may come before the first job of its queue. The
-- rule is that of _sees_queue; which walls bind is asked once for all names, for who reads a view
-- waits for this. Reads only. One look at an empty table where there are no walls.
create or replace function rota.visible_queues()
    returns text[]
    language plpgsql
    stable
    parallel safe
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_principals text[];
    v_patterns text[];
begin
    perform from rota.queue_walls;

    if not found then
        return null;
    end if;

    select array_agg(w.principal), array_agg(w.queue_pattern) into v_principals, v_patterns
    from rota._binding_walls() as w;

    if v_principals is null then
        return null;
    end if;

    return array(
        select n.name
        from (
            select l.queue from rota.lanes as l
            union
            select q.name from rota.queues as q
            union
            select u.queue from rota.workers as w cross join unnest(w.queues) as u(queue)
        ) as n(name)
        where (
            select bool_and(p.fits)
            from (
                select bool_or(rota._fits_pattern(n.name, w.pattern)) as fits
                from unnest(v_principals, v_patterns) as w(principal, pattern)
                group by w.principal
            ) as p
        )
        order by n.name collate "C"
    );
end;
$$;

comment on function rota.visible_queues is
    'Name the queues that the caller may see; null for all of them.';
