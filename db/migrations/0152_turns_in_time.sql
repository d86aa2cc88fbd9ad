-- depends: 0151_server_of_ids
-- transactional: false

-- Turns in the order of their times, only for who asks for it: the time of a turn is never
-- infinite, and a query that does not say so cannot use this index. Who looks for the turns of a
-- key would use it otherwise, and read all of the lane, with a plan that was made while there were
-- few. turns_in_order goes when the functions that need it are replaced (the deploy drops it).
--
-- What a build that was cut off left goes first.
do $$
begin
    if exists (
        select
        from pg_catalog.pg_index as i
        where i.indexrelid = to_regclass('rota.turns_in_time') and not i.indisvalid
    ) then
        drop index rota.turns_in_time;
    end if;
end;
$$;

-- Nobody waits for it to be built, so it may wait for long for transactions that are open.
set lock_timeout = '1min';

-- squawk-ignore ban-concurrent-index-creation-in-transaction
create index concurrently if not exists turns_in_time
    on rota.turns (queue, priority, ready_at) where ready_at < 'infinity';

set lock_timeout = '100ms';
