-- depends: 0120_key

-- In a transaction of its own, so that no two tables are locked at once.
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.finished_jobs'::regclass and a.attname = 'key'
    ) then
        alter table rota.finished_jobs add column key text;
    end if;
end;
$$;
