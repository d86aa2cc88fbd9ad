-- depends: 0160_retention

-- The same of one queue; null for what holds for all. A queue that keeps nothing of what completes
-- has a keep_completed of 0.
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.queues'::regclass and a.attname = 'keep_failed'
    ) then
        alter table rota.queues
            add column keep_completed interval check (
                keep_completed = interval '0' or keep_completed >= interval '1 hour'
            ),
            add column keep_failed interval check (keep_failed >= interval '1 hour');
    end if;
end;
$$;
