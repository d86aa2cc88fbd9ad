-- Within each role that binds the caller one pattern is enough; of several such roles each must
-- have one, so that to be in one more group never loosens anything. Which walls bind is given, for
-- to ask it (_binding_walls) costs more than to judge many queues by it.
create or replace function rota._let_through(queues text[], walls rota.queue_walls[])
    returns text[]
    language plpgsql
    stable
    parallel safe
    set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select u.queue
        from unnest(queues) with ordinality as u(queue, place)
        where (
            select coalesce(bool_and(p.fits), true)
            from (
                select bool_or(rota._fits_pattern(u.queue, w.queue_pattern)) as fits
                from unnest(walls) as w
                group by w.principal
            ) as p
        )
        order by u.place
    );
end;
$$;

comment on function rota._let_through is
    'Return those of the queues, in their order, that these walls let through.';
