-- depends: 0110_headers

-- They stay with the job when it ends, and come back with one that is retried. In a transaction of
-- its own, so that no two tables are locked at once.
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.finished_jobs'::regclass and a.attname = 'headers'
    ) then
        alter table rota.finished_jobs add column headers jsonb;
    end if;
end;
$$;
