-- depends: 0108_minutes_in_short

-- What goes with a job and is not its payload: W3C's traceparent, and what else its producer wants
-- the handler, or whom that calls, to know. An object of texts (_bad_headers), or null, which takes
-- no byte: some column of each row is null anyway. claimed_job gets them together with the function
-- that fills it (claim_next_job). Where the column is there, nobody is held up for it.
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.live_jobs'::regclass and a.attname = 'headers'
    ) then
        alter table rota.live_jobs add column headers jsonb;
    end if;
end;
$$;
