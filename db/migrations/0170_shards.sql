-- depends: 0151_server_of_ids

-- Which of several databases this one is: its number, from 0 on; from which id on its ids tell that
-- (id % 1024); and the last that it gave before, when it was alone. Null: it is the only one.
alter table rota.settings
    add column if not exists shard integer
        constraint shard_has_a_number check (shard between 0 and 1023),
    add column if not exists ids_from bigint,
    add column if not exists ids_before bigint;

do $$
begin
    if to_regtype('rota.shard_identity') is null then
        create type rota.shard_identity as (shard integer, ids_from bigint, ids_before bigint);
    end if;
end;
$$;
