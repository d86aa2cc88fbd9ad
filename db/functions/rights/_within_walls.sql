-- For doors to which a queue behind a wall is an empty one. Where there are no walls it is not
-- called.
create or replace function rota._within_walls(queues text[])
    returns text[]
    language plpgsql
    stable
    parallel safe
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_walls rota.queue_walls[] := array(select w from rota._binding_walls() as w);
begin
    if v_walls = '{}' or queues is null then
        return queues;
    end if;

    return rota._let_through(queues, v_walls);
end;
$$;

comment on function rota._within_walls is
    'Leave out the queues that lie behind a wall of the caller.';
