create or replace function rota._explain_running(
    job rota.live_jobs,
    at timestamptz,
    is_walled boolean
)
    returns setof rota.job_reason
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if job.lease_until < at then
        return next row(
            true,
            'LEASE_OVER',
            format(
                'Its worker %s is gone: the lease ran out %s ago, and nobody took the job back.',
                job.worker, rota._rough_span(at - job.lease_until)
            ),
            'Start a worker, or: select recover_jobs()',
            jsonb_build_object('worker', job.worker, 'lease_until', job.lease_until)
        )::rota.job_reason;

        return query
            select l.*
            from rota._explain_lock(job, at, true, 'it cannot be taken back', is_walled) as l;
    else
        return next row(
            false,
            'RUNNING',
            format(
                'It has run for %s on worker %s, attempt %s of %s; the lease ends in %s.',
                rota._rough_span(at - job.started_at), job.worker, job.attempt,
                job.max_retries + 1, rota._rough_span(job.lease_until - at)
            ),
            format('Let it end, or: select cancel_job(%s)', job.id),
            jsonb_build_object(
                'worker', job.worker,
                'started_at', job.started_at,
                'lease_until', job.lease_until,
                'progress', job.progress
            )
        )::rota.job_reason;

        return query
            select l.*
            from rota._explain_lock(
                job, at, false,
                'what finishes it waits for that, unless it is its own handler (hold_lease)',
                is_walled
            ) as l;
    end if;

    if job.cancel_requested_at is not null then
        return next row(
            false,
            'CANCEL_PENDING',
            format(
                'It was asked to stop %s ago, and its handler has not returned yet.',
                rota._rough_span(at - job.cancel_requested_at)
            ),
            'Wait until its handler looks at job.cancelled, or stop the worker.',
            jsonb_build_object(
                'cancel_requested_at', job.cancel_requested_at,
                'cancel_reason', job.cancel_reason
            )
        )::rota.job_reason;
    end if;

    if rota._later(job.started_at, job.timeout) < at then
        return next row(
            false,
            'OVER_TIMEOUT',
            format(
                'It has run for %s, longer than its timeout of %s.',
                rota._rough_span(at - job.started_at), rota._span_text(job.timeout)
            ),
            'Its handler does not give way: stop the worker, and mend the handler.',
            jsonb_build_object(
                'timeout', rota._span_text(job.timeout),
                'started_at', job.started_at
            )
        )::rota.job_reason;
    end if;
end;
$$;

comment on function rota._explain_running is
    'Say what holds up a job that runs.';
