-- Before any look for the name. One look at an empty table where there are no walls.
create or replace function rota._check_name(name text)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform from rota.queue_walls;

    if found and not rota._owns_name(name) then
        perform rota._refuse_name(name);
    end if;
end;
$$;

comment on function rota._check_name is
    'Refuse the name of a schedule or a worker that lies behind a wall of the caller.';
