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
    v_running bigint[];
    v_job rota.live_jobs;
begin
    if length(reason) > 1000 then
        raise exception 'reason must have at most 1000 characters, not %', length(reason)
            using errcode = 'RTV01';
    end if;

    select array_agg(l.id), array_agg(l.id) filter (where l.state = 'RUNNING')
    into v_ids, v_running
    from (
        select j.id, j.state
        from rota.live_jobs as j
        where j.id = any(job_ids)
            and rota._matches(
                filter, j.id, j.state, j.queue, j.task, j.schedule_type, j.unique_key, j.run_at,
                null
            )
        order by j.id
        for no key update
    ) as l;

    if v_running is not null then
        update rota.live_jobs as j
        set cancel_requested_at = coalesce(j.cancel_requested_at, at),
            cancel_reason = coalesce(j.cancel_reason, reason)
        where j.id = any(v_running);
    end if;

    for v_place in 1..coalesce(cardinality(v_ids), 0) loop
        select j.* into v_job
        from rota.live_jobs as j
        where j.id = v_ids[v_place];

        if v_job.state = 'SCHEDULED' then
            perform rota._retire_job(v_job, 'CANCELLED', reason, at);
        end if;

        return next row(
            v_job.id, v_job.queue,
            case v_job.state when 'SCHEDULED' then 'CANCELLED' else v_job.state end, null, null
        )::rota.steered_job;
    end loop;
end;
$$;

comment on function rota._cancel_jobs is
    'End those of these jobs that are scheduled, and ask the running ones to end.';
