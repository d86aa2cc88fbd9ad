-- Who guards the rows of live_jobs. A CHECK would be the plain way, and was: but a statement reads
-- the text of each CHECK of its table anew, which was a third of an enqueue's CPU time.
-- CPU time of the server in us, PostgreSQL 18, with six CHECKs / with these triggers / with a
-- trigger of each new row instead / with nothing:
--   enqueue of one job: 51.9 / 48.0 / 42.9 / 38.1
--   a job of an enqueue_many of 1,000: 3.28 / 3.33 / 3.87 / 3.16
-- Applied at each deploy, in a transaction of its own after the functions: while the triggers are
-- not there, the CHECKs still are. Of jobs with keys that were added in between no turn was posted
-- (_watch_jobs): to write them anew posts it.
do $$
begin
    if exists (
        select from pg_catalog.pg_trigger as t
        where t.tgrelid = 'rota.live_jobs'::regclass and t.tgname = 'impossible_changes'
    ) then
        return;
    end if;

    -- All at once: who has read the table and goes on to write would meet a lock that grows.
    lock table rota.live_jobs in access exclusive mode;

    create trigger impossible_jobs
        after insert on rota.live_jobs
        referencing new table as changed
        for each statement
        execute function rota._watch_jobs();

    create trigger impossible_changes
        after update on rota.live_jobs
        referencing new table as changed
        for each statement
        execute function rota._watch_jobs();

    alter table rota.live_jobs
        drop constraint if exists running_iff_leased,
        drop constraint if exists only_a_running_job_waits_for_its_cancel,
        drop constraint if exists attempt_within_max_retries,
        drop constraint if exists running_attempt_is_charged,
        drop constraint if exists only_a_schedule_waits_for_ever,
        drop constraint if exists only_a_schedule_is_named;

    update rota.live_jobs as j
    set run_at = j.run_at
    where j.key is not null;
end;
$$;

-- The rows are what counts, however they came: by a call, by a restore of data alone, by way of a
-- subscription, whose worker fires triggers of rows only, and of these those that are always on. A
-- restore that turned triggers off and on leaves them as any others, hence anew with each deploy.
do $$
begin
    if not exists (
        select from pg_catalog.pg_trigger as t
        where t.tgrelid = 'rota.queue_walls'::regclass and t.tgname = 'wall_changed'
    ) then
        create trigger wall_changed
            after insert or update or delete on rota.queue_walls
            for each row
            execute function rota._walls_changed();

        create trigger walls_emptied
            after truncate on rota.queue_walls
            for each statement
            execute function rota._walls_changed();
    end if;

    alter table rota.queue_walls
        enable always trigger wall_changed,
        enable always trigger walls_emptied;

    perform rota._guard_views();
end;
$$;
