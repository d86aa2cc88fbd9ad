-- Who guards the rows of live_jobs. A CHECK would be the plain way, and was: but a statement reads
-- the text of each CHECK of its table anew, which was a fifth of an enqueue and a tenth of a claim
-- (PostgreSQL 18, CPU time of the server: 56 to 45 us, 110 to 101 us). A bulk pays for it: 0.5 us a
-- job where it comes in, 0.07 in a claim of 1,000.
-- Applied at each deploy, in a transaction of its own after the functions: while the triggers are
-- not there, the CHECKs still are.
do $$
begin
    if exists (
        select from pg_catalog.pg_trigger as t
        where t.tgrelid = 'rota.live_jobs'::regclass and t.tgname = 'impossible_changes'
    ) then
        return;
    end if;

    create trigger impossible_jobs
        before insert on rota.live_jobs
        for each row
        execute function rota._refuse_impossible_job();

    create trigger impossible_changes
        after update on rota.live_jobs
        referencing new table as changed
        for each statement
        execute function rota._refuse_impossible_jobs();

    alter table rota.live_jobs
        drop constraint if exists running_iff_leased,
        drop constraint if exists only_a_running_job_waits_for_its_cancel,
        drop constraint if exists attempt_within_max_retries,
        drop constraint if exists running_attempt_is_charged,
        drop constraint if exists only_a_schedule_waits_for_ever,
        drop constraint if exists only_a_schedule_is_named;
end;
$$;
