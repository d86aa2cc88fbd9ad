-- For a job whose time has not come. Of several causes that move run_at only one can be the last.
create or replace function rota._explain_time(job rota.live_jobs, at timestamptz)
    returns setof rota.job_reason
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_evidence jsonb := jsonb_build_object(
        'run_at', nullif(job.run_at, 'infinity'),
        'attempt', job.attempt,
        'last_error', left(job.last_error, 500)
    );
    v_in text := case when isfinite(job.run_at) then rota._rough_span(job.run_at - at) end;
    v_paused_at timestamptz;
begin
    if not isfinite(job.run_at) then
        select s.paused_at into v_paused_at
        from rota.schedules as s
        where s.job_id = job.id;

        return next row(
            true,
            'SCHEDULE_PAUSED',
            format(
                'Its schedule was paused%s.',
                ' ' || rota._rough_span(at - v_paused_at) || ' ago'
            ),
            'select resume_schedule(' || quote_literal(job.name) || ')',
            v_evidence || jsonb_build_object('paused_at', v_paused_at)
        )::rota.job_reason;
        return;
    end if;

    if job.unsettled_since is not null then
        return next row(
            true,
            'UNSETTLED',
            format(
                'Its next slot could not be computed %s ago, and is tried again in %s: %s',
                rota._rough_span(at - job.unsettled_since), v_in, rota._last_line(job.last_error)
            ),
            'See what it names, or save the schedule anew; no slot is lost meanwhile.',
            v_evidence
        )::rota.job_reason;
        return;
    end if;

    if exists (
        select
        from rota.unhandled_jobs as m
        where m.job_id = job.id and m.until = job.run_at
    ) then
        return next row(
            true,
            'NO_HANDLER',
            format(
                'A worker without a handler for task %s handed it back; it is tried again in %s.',
                job.task, v_in
            ),
            'Start a worker with the module of that handler (--tasks): it takes it at once.',
            v_evidence
        )::rota.job_reason;
        return;
    end if;

    return query select p.* from rota._explain_pause(job, at) as p;

    if found then
        return;
    end if;

    if job.attempt > 0 then
        return next row(
            true,
            'BACKOFF',
            format(
                'Attempt %s of %s did not succeed, and the next one starts in %s%s',
                job.attempt, job.max_retries + 1, v_in,
                coalesce(': ' || rota._last_line(job.last_error), '.')
            ),
            null,
            v_evidence
        )::rota.job_reason;
    elsif job.schedule_type <> 'ONE_TIME' then
        return next row(
            true,
            'SLOT',
            format(
                'Its next run is of %s, and starts in %s.',
                rota._utc_text(job.scheduled_for), v_in
            ),
            'To run it now: select trigger_schedule(' || quote_literal(job.name) || ')',
            v_evidence || jsonb_build_object('scheduled_for', job.scheduled_for)
        )::rota.job_reason;
    else
        return next row(
            true,
            'TIME',
            format(
                case when job.run_at > job.scheduled_for
                    then 'It was put off, to %s, which is in %s.'
                    else 'It is to start at %s, which is in %s.'
                end,
                rota._utc_text(job.run_at), v_in
            ),
            null,
            v_evidence
        )::rota.job_reason;
    end if;
end;
$$;

comment on function rota._explain_time is
    'Say why a job that waits is not due yet.';
