-- depends: 0070_attendance

-- The attempt that completes a one-time job is no row of its own any more: the job's row in
-- finished_jobs says all of it, with the token under which it was finished. Such a job is never
-- retried, so that row stays for as long as its attempts do. Null for every other job, and for
-- those that had completed before, whose last attempt lies in rota.attempts: each is in one place.
alter table rota.finished_jobs add column if not exists token uuid;

-- Every row there is has none, so nothing is looked through.
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_constraint as c
        where c.conrelid = 'rota.finished_jobs'::regclass
            and c.conname = 'only_a_completed_job_is_its_attempt'
    ) then
        alter table rota.finished_jobs
            add constraint only_a_completed_job_is_its_attempt check (
                token is null
                or (state = 'COMPLETED' and schedule_type = 'ONE_TIME' and started_at is not null)
            ) not valid;
    end if;
end;
$$;
