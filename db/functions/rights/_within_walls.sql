-- For doors to which a queue behind a wall is an empty one. Where there are no walls it is not
-- called.
create or replace function rota._within_walls(queues text[])
    returns text[]
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select case when queues is not null then array(
        select u.queue
        from unnest(queues) with ordinality as u(queue, place)
        where rota._sees_queue(u.queue)
        order by u.place
    ) end
$$;

comment on function rota._within_walls is
    'Leave out the queues that lie behind a wall of the caller.';
