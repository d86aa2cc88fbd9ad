-- depends: 0121_finished_key
-- transactional: false

-- A key has a lane of its own in each priority, so that its backlog is in nobody's way. The index
-- holds a lane as one number (_lane): a second text to compare would make a bulk a tenth dearer.
-- It stands beside live_jobs_by_lane until the functions that look there are replaced; then the
-- deploy drops that one. The second index has the jobs that take room under a limit.
--
-- What a build that was cut off left goes first. Who comes after a drop that waits, waits, too, so
-- it soon gives way, as all in a deploy does.
do $$
declare
    v_name text;
begin
    for v_name in
        select i.indexrelid::regclass::text
        from pg_catalog.pg_index as i
        where i.indexrelid in (
                to_regclass('rota.live_jobs_lane'), to_regclass('rota.live_jobs_counted')
            )
            and not i.indisvalid
    loop
        execute format('drop index %s', v_name);
    end loop;
end;
$$;

-- Nobody waits for these to be built, so they may wait for long for transactions that are open.
set lock_timeout = '1min';

-- squawk-ignore ban-concurrent-index-creation-in-transaction
create index concurrently if not exists live_jobs_lane
    on rota.live_jobs (queue, rota._lane(key, priority), run_at, id);

-- squawk-ignore ban-concurrent-index-creation-in-transaction
create index concurrently if not exists live_jobs_counted
    on rota.live_jobs (queue, key, id) where counted;

set lock_timeout = '100ms';
