-- depends: 0061_dead_types

-- Which run of the job a claim hands out. At the end of the type, so that statements which name
-- its columns go on while this is deployed.
do $$
begin
    if not exists (
        select
        from pg_attribute as a
        where a.attrelid = 'rota.claimed_job'::regclass and a.attname = 'run'
    ) then
        alter type rota.claimed_job add attribute run bigint;
    end if;
end;
$$;
