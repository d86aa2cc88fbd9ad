-- depends: 0021_backfill_keys

-- Jobs that were handed back because their worker had no handler for their task, and until when
-- each was put off. A job waits for want of a handler as long as its run_at is that moment: any
-- other run_at is a retry's, a release's of its handler, or somebody's who moved it since. Beside
-- live_jobs, so that no other job pays for it. What has passed is removed by maintain.
create table if not exists rota.unhandled_jobs (
    job_id bigint primary key,
    queue text not null,
    task text not null,
    until timestamptz not null
);

create index if not exists unhandled_jobs_by_task
    on rota.unhandled_jobs (task, job_id);
