-- Names of schedules and of workers are one set for the whole database. So that none can be found
-- out by trying, a name behind a wall says whose it is: of "acme.*" it begins with "acme.", of
-- "mail" with "mail:", which no name of another pattern begins with.
create or replace function rota._owns_name(name text)
    returns boolean
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(bool_and(p.fits), true)
    from (
        select bool_or(
            coalesce(
                starts_with(
                    name,
                    case when right(w.queue_pattern, 2) = '.*'
                        then left(w.queue_pattern, -1)
                        else w.queue_pattern || ':'
                    end
                ),
                false
            )
        ) as fits
        from rota._binding_walls() as w
        group by w.principal
    ) as p
$$;

comment on function rota._owns_name is
    'Tell whether a schedule or worker of the caller may have this name.';
