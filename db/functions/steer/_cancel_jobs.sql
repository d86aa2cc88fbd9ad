-- All rows are locked at once, in the order of their ids, before the first is touched: so two
-- bulks, or a bulk and a batch of finishes, wait for each other and never deadlock. A claim or a
-- finish that came first is waited out, and what it made of the job decides; whether the filter
-- still matches is looked at on the row as it is then.
create or replace function rota._cancel_jobs(
    job_ids bigint[],
    reason text,
    at timestamptz,
    filter rota.job_filter default null
)
    returns setof rota.steered_job
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids bigint[];
    v_job rota.live_jobs;
begin
    if length(reason) > 1000 then
        raise exception 'reason must have at most 1000 characters, not %', length(reason)
            using errcode = 'RTV01';
    end if;

    v_ids := array(
        select j.id
        from rota.live_jobs as j
        where j.id = any(job_ids)
            and (filter is null or rota._matches(
                filter, j.id, j.state, j.queue, j.task, j.schedule_type, j.unique_key, j.key,
                j.run_at, null
            ))
        order by j.id
        for no key update
    );

    for v_place in 1..cardinality(v_ids) loop
        select j.* into v_job
        from rota.live_jobs as j
        where j.id = v_ids[v_place];

        return next row(
            v_job.id, v_job.queue, rota._cancel_live_job(v_job, reason, at), null, null
        )::rota.steered_job;
    end loop;
end;
$$;

comment on function rota._cancel_jobs is
    'End those of these jobs that are scheduled, and ask the running ones to end.';
