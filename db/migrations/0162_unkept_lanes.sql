-- depends: 0161_retention_of_queues

-- True for a lane whose queue keeps nothing of what completes, from when on there is room for its
-- receipts: set by maintain, read by claims, which go through the lanes anyway.
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.lanes'::regclass and a.attname = 'unkept'
    ) then
        alter table rota.lanes add column unkept boolean;
    end if;
end;
$$;
