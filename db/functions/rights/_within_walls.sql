-- For doors to which a queue behind a wall is an empty one. Where there are no walls it is not
-- called. The rule is that of _sees_queue; which walls bind is asked once for all queues.
create or replace function rota._within_walls(queues text[])
    returns text[]
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_principals text[];
    v_patterns text[];
begin
    select array_agg(w.principal), array_agg(w.queue_pattern) into v_principals, v_patterns
    from rota._binding_walls() as w;

    if v_principals is null or queues is null then
        return queues;
    end if;

    return array(
        select u.queue
        from unnest(queues) with ordinality as u(queue, place)
        where (
            select bool_and(p.fits)
            from (
                select bool_or(rota._fits_pattern(u.queue, w.pattern)) as fits
                from unnest(v_principals, v_patterns) as w(principal, pattern)
                group by w.principal
            ) as p
        )
        order by u.place
    );
end;
$$;

comment on function rota._within_walls is
    'Leave out the queues that lie behind a wall of the caller.';
