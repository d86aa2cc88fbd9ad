-- One look without a lock, at most once in a while for all who wait for the end of some job. It
-- tells nothing of a job but that it is not live any more, as one that never was is not, or one
-- behind a wall of the caller.
create or replace function rota.ended_jobs(job_ids bigint[])
    returns setof bigint
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    select u.id
    from unnest(job_ids) as u(id)
    where not exists (
        select
        from rota.live_jobs as j
        where j.id = u.id
            and ((select rota.visible_queues()) is null
                or j.queue = any((select rota.visible_queues())::text[]))
    )
$$;

comment on function rota.ended_jobs is
    'Tell which of these jobs are not live any more.';
