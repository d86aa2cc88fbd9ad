create or replace function rota._check_no_wall(door text)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from rota._binding_walls()) then
        raise exception 'role % has walls, and % is about all queues', rota._caller(), door
            using errcode = '42501',
                  hint = 'It is for a role without walls.';
    end if;
end;
$$;

comment on function rota._check_no_wall is
    'Refuse what concerns the whole house to a caller with walls.';
