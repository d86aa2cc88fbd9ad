-- Whoever changes the table, by wall or by a restore of its rows.
create or replace function rota._walls_changed()
    returns trigger
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform rota._guard_views();
    return null;
end;
$$;

comment on function rota._walls_changed is
    'Have the views follow the rows of queue_walls.';
