-- Within each role that binds the caller one pattern is enough; of several such roles each must
-- have one, so that to be in one more group never loosens anything.
create or replace function rota._sees_queue(queue text)
    returns boolean
    language sql
    stable
    parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(bool_and(p.fits), true)
    from (
        select bool_or(rota._fits_pattern(queue, w.queue_pattern)) as fits
        from rota._binding_walls() as w
        group by w.principal
    ) as p
$$;

comment on function rota._sees_queue is
    'Tell whether the walls of the caller let a queue through, whether there is one or not.';
