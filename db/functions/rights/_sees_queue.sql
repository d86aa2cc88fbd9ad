create or replace function rota._sees_queue(queue text)
    returns boolean
    language sql
    stable
    parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select cardinality(rota._within_walls(array[queue])) = 1
$$;

comment on function rota._sees_queue is
    'Tell whether the walls of the caller let a queue through, whether there is one or not.';
