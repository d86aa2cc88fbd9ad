-- depends: 0162_unkept_lanes

-- True for an attempt that leaves a receipt and nothing else if it completes its job, and else
-- null: written by the claim, in no index, so that a claim stays a heap-only update.
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.live_jobs'::regclass and a.attname = 'unkept'
    ) then
        alter table rota.live_jobs add column unkept boolean;
    end if;
end;
$$;
