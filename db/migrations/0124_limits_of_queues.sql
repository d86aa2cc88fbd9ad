-- depends: 0123_turns

-- Limits of a queue as a whole, and of each key in it; null for none. limited says which there are,
-- for claims, who read this row anyway, as a sum: 1 for the queue, 2 for its keys, 4 where starts
-- are limited, of either, 8 for strict order (_limits_changed).
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.queues'::regclass and a.attname = 'limited'
    ) then
        alter table rota.queues
            add column max_running integer check (max_running > 0),
            add column max_starts integer check (max_starts > 0),
            add column starts_period interval check (starts_period > interval '0'),
            add column key_max_running integer check (key_max_running > 0),
            add column key_max_starts integer check (key_max_starts > 0),
            add column key_starts_period interval check (key_starts_period > interval '0'),
            add column key_in_order boolean,
            add column limited integer not null default 0;
    end if;
end;
$$;
