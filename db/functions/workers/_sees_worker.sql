-- By the queues that it announced, as worker_status has it. One that announced none is nobody's.
create or replace function rota._sees_worker(queues text[])
    returns boolean
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select not exists (select from rota.queue_walls)
        or coalesce(
            cardinality(rota._within_walls(queues)) = nullif(cardinality(queues), 0),
            not exists (select from rota._binding_walls())
        )
$$;

comment on function rota._sees_worker is
    'Tell whether the walls of the caller leave him a worker of these queues.';
