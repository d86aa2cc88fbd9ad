-- depends: 0194_left_lane
-- transactional: false

-- What runs under a limit stands in no lane: to start it writes an entry less, which makes claims
-- of many limited jobs an eighth cheaper. live_jobs_lane goes when the functions that need it are
-- replaced (the deploy drops it).
--
-- What a build that was cut off left goes first.
do $$
begin
    if exists (
        select
        from pg_catalog.pg_index as i
        where i.indexrelid = to_regclass('rota.live_jobs_in_lane') and not i.indisvalid
    ) then
        drop index rota.live_jobs_in_lane;
    end if;
end;
$$;

-- Nobody waits for it to be built, so it may wait for long for transactions that are open.
set lock_timeout = '1min';

-- squawk-ignore ban-concurrent-index-creation-in-transaction
create index concurrently if not exists live_jobs_in_lane
    on rota.live_jobs (queue, rota._lane(key, priority), run_at, id)
    with (deduplicate_items = off)
    where (counted and left_lane) is not true;

set lock_timeout = '100ms';
