-- A step, whose result is the time of waking, and a release: no worker, no lease and no connection
-- is held meanwhile, and no attempt is charged. The time is recorded once, so a job that is tried
-- again sleeps no longer. A repeat after a lost reply gets the first answer, as with release_job.
create or replace function rota.sleep_job(job_id bigint, token uuid, step text, delay interval)
    returns rota.job_outcome
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz;
    v_recorded jsonb;
    v_until timestamptz;
    v_reason text := format('sleeps (%s)', step);
begin
    if delay is null then
        raise exception 'delay must not be null'
            using errcode = 'RTV01';
    end if;

    perform rota._check_delay('delay', delay);
    perform rota._check_step('step', step);

    perform
    from rota.live_jobs as j
    where j.id = sleep_job.job_id and j.token = sleep_job.token
    for no key update;

    if not found then
        return rota._released_before(job_id, token);
    end if;

    v_now := rota._now();
    v_recorded := rota.record_step(
        job_id, token, step,
        jsonb_build_object('sleep_until', rota._utc_text(rota._later(v_now, delay)))
    );

    if v_recorded ->> 'sleep_until' is null
        or v_recorded ->> 'sleep_until' not similar to '[0-9]{4}(-[0-9]{2}){2} [0-9:.]{8,15}[+]00'
    then
        raise exception 'step % of job % is recorded, and not as a sleep', step, job_id
            using errcode = 'RTC03';
    end if;

    v_until := (v_recorded ->> 'sleep_until')::timestamptz;

    if v_until <= v_now then
        perform rota._forget_reason(job_id, v_reason);

        return row(job_id, 'RUNNING', null)::rota.job_outcome;
    end if;

    return rota.release_job(job_id, token, v_until - v_now, v_reason);
end;
$$;

comment on function rota.sleep_job is
    'Hand a running job back until a time that its step records; RUNNING if that has come.';
