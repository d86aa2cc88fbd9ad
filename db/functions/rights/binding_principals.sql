-- What the views ask that are about roles, as visible_queues is for those that are about queues.
-- Reads only. One look at an empty table where there are no walls.
create or replace function rota.binding_principals()
    returns text[]
    language plpgsql
    stable
    parallel safe
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform from rota.queue_walls;

    if not found then
        return null;
    end if;

    return (select array_agg(distinct w.principal) from rota._binding_walls() as w);
end;
$$;

comment on function rota.binding_principals is
    'Name the roles whose walls bind the caller; null for none.';
