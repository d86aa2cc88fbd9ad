-- depends: 0085_queue_walls
-- transactional: false

-- A key is unique per queue from now on: else a queue behind a wall would show by its keys. The
-- index stands beside the old one, by which the functions of before know the holder of a key; when
-- they are replaced, the deploy drops that one. While both stand, two calls of one key at the same
-- instant may end in 23505 for the second, since "on conflict" looks at one of them only. Without
-- one named it would look at all, and pass over a job whose id is taken.
--
-- What a build that was cut off left goes first. Who comes after a drop that waits, waits, too, so
-- it soon gives way, as all in a deploy does.
do $$
begin
    if exists (
        select
        from pg_catalog.pg_index as i
        where i.indexrelid = to_regclass('rota.live_jobs_unique_key_of_queue')
            and not i.indisvalid
    ) then
        drop index rota.live_jobs_unique_key_of_queue;
    end if;
end;
$$;

-- Nobody waits for this one to be built, so it may wait for long for transactions that are open.
set lock_timeout = '1min';

-- squawk-ignore ban-concurrent-index-creation-in-transaction
create unique index concurrently if not exists live_jobs_unique_key_of_queue
    on rota.live_jobs (unique_key, queue) where unique_key is not null;

set lock_timeout = '100ms';
