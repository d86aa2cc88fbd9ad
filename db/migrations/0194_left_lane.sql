-- depends: 0193_starts_alone

-- true for a job that was started under a limit, and so has left its lane (0195); null for all
-- others: one that ran before there was a limit stays where it is.
--
-- counted would not do: a job in strict order that waits for another attempt is counted, and is to
-- be found in its lane. Nor would this alone, which functions of before do not take back. What they
-- leave stands in no lane only if it is counted, and by that maintain finds it.
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.live_jobs'::regclass and a.attname = 'left_lane'
    ) then
        alter table rota.live_jobs add column left_lane boolean;
    end if;
end;
$$;
