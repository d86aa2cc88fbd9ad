-- A handler's own wish to go on later, if that is what moved run_at last. A sleep is told by the
-- time that its step recorded, which is compared as text, for a step may record anything; the
-- release came a moment after. For an event until is just run_at (await_event).
create or replace function rota._explain_pause(job rota.live_jobs, at timestamptz)
    returns setof rota.job_reason
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_step text;
    v_event text;
begin
    select w.event, w.step into v_event, v_step
    from rota.event_waits as w
    where w.job_id = job.id and w.until = job.run_at
    limit 1;

    if found then
        return next row(
            true,
            'WAITS_FOR_EVENT',
            format(
                'It waits for event %s, until %s, which is in %s (step %s).',
                v_event, rota._utc_text(job.run_at), rota._rough_span(job.run_at - at), v_step
            ),
            format('select emit_event(%L)', v_event),
            jsonb_build_object('event', v_event, 'step', v_step, 'until', job.run_at)
        )::rota.job_reason;
        return;
    end if;

    select s.step into v_step
    from rota.job_steps as s
    where s.job_id = job.id
        and s.run = rota._step_run(job.schedule_type, job.run)
        and (s.result ->> 'sleep_until') collate "C"
            between rota._utc_text(job.run_at - interval '1 second')
            and rota._utc_text(job.run_at)
    order by s.recorded_at desc
    limit 1;

    if found then
        return next row(
            true,
            'SLEEPS',
            format(
                'It sleeps until %s, which is in %s (step %s).',
                rota._utc_text(job.run_at), rota._rough_span(job.run_at - at), v_step
            ),
            null,
            jsonb_build_object('step', v_step, 'until', job.run_at)
        )::rota.job_reason;
    end if;
end;
$$;

comment on function rota._explain_pause is
    'Say whether a job sleeps or waits for an event.';
