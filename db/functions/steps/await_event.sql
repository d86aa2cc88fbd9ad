-- Lock order: the event, then the job, as emit_event does. The row of the event is where the two
-- meet: either it has been emitted when we hold it, or who emits it waits for us and finds our
-- note. If this process dies on any line, nothing has happened, and the lease runs out. A time-out
-- is the job coming due by itself. A repeat after a lost reply gets the first answer.
create or replace function rota.await_event(
    job_id bigint,
    token uuid,
    step text,
    event text,
    timeout interval
)
    returns rota.awaited_event
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz;
    v_event rota.events;
    v_run bigint;
    v_recorded jsonb;
    v_until timestamptz;
    v_answer rota.awaited_event;
    v_outcome rota.job_outcome;
    v_reason text := format('waits for event %s', event);
begin
    if timeout is null then
        raise exception 'timeout must not be null'
            using errcode = 'RTV01';
    end if;

    perform rota._check_delay('timeout', timeout);
    perform rota._check_step('step', step);
    perform rota._check_step('event', event);
    perform rota._check_name(event);

    loop
        select e.* into v_event
        from rota.events as e
        where e.name = await_event.event
        for no key update;

        exit when found;

        insert into rota.events (name, noted_at)
        values (await_event.event, rota._now())
        on conflict on constraint events_pkey do nothing;
    end loop;

    select rota._step_run(j.schedule_type, j.run) into v_run
    from rota.live_jobs as j
    where j.id = await_event.job_id and j.token = await_event.token
    for no key update;

    if not found then
        v_outcome := rota._released_before(job_id, token);

        return row(
            case v_outcome.state when 'SCHEDULED' then 'RELEASED' else v_outcome.state end, null
        )::rota.awaited_event;
    end if;

    v_now := rota._now();

    select s.result into v_recorded
    from rota.job_steps as s
    where s.job_id = await_event.job_id and s.run = v_run and s.step = await_event.step;

    if found then
        if v_recorded -> 'event' is distinct from to_jsonb(event) then
            raise exception 'step % of job % is recorded, and not as a wait for event %', step,
                job_id, event
                using errcode = 'RTC03';
        end if;

        perform rota._forget_reason(job_id, v_reason);

        return row(v_recorded ->> 'state', v_recorded -> 'payload')::rota.awaited_event;
    end if;

    select w.until into v_until
    from rota.event_waits as w
    where w.event = await_event.event
        and w.job_id = await_event.job_id
        and w.run = v_run
        and w.step = await_event.step;

    if v_event.emitted_at is not null then
        v_answer := row('ARRIVED', v_event.payload);
    elsif coalesce(v_until, rota._later(v_now, timeout)) <= v_now then
        v_answer := row('TIMED_OUT', null);
    end if;

    if v_answer.state is not null then
        perform rota.record_step(
            job_id, token, step,
            jsonb_build_object(
                'event', event, 'state', v_answer.state, 'payload', v_answer.payload
            )
        );

        delete from rota.event_waits as w
        where w.event = await_event.event and w.job_id = await_event.job_id;

        perform rota._forget_reason(job_id, v_reason);

        return v_answer;
    end if;

    v_outcome := rota.release_job(
        job_id, token, coalesce(v_until - v_now, timeout), v_reason
    );

    if v_outcome.state <> 'SCHEDULED' then
        return row(v_outcome.state, null)::rota.awaited_event;
    end if;

    insert into rota.event_waits (event, job_id, run, step, until)
    values (await_event.event, await_event.job_id, v_run, await_event.step, v_outcome.run_at)
    on conflict on constraint event_waits_pkey do update
        set run = excluded.run,
            step = excluded.step,
            until = excluded.until;

    return row('RELEASED', null)::rota.awaited_event;
end;
$$;

comment on function rota.await_event is
    'Take the payload of an event, or hand the running job back until it comes or its time is up.';
