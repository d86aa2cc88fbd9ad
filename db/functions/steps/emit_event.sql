-- The first emit of a name counts. Lock order: the event, then jobs by id. A job that is not found
-- waiting, because it runs, is tried again later or was cancelled, finds the event when it asks.
-- Jobs with keys get their turns by the trigger of the table.
create or replace function rota.emit_event(event text, payload jsonb default null)
    returns integer
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._enqueue_time();
    v_queues text[];
    v_ids bigint[];
begin
    perform rota._check_step('event', event);
    perform rota._check_name(event);

    insert into rota.events as e (name, payload, emitted_at, noted_at)
    values (emit_event.event, emit_event.payload, v_now, v_now)
    on conflict on constraint events_pkey do update
        set payload = excluded.payload,
            emitted_at = excluded.emitted_at,
            noted_at = excluded.noted_at
        where e.emitted_at is null;

    if not found then
        return 0;
    end if;

    v_ids := array(
        select j.id
        from rota.event_waits as w
        join rota.live_jobs as j on j.id = w.job_id
        where w.event = emit_event.event and j.state = 'SCHEDULED' and j.run_at = w.until
        order by j.id
        for no key update of j
    );
    v_now := rota._enqueue_time();

    with woken as (
        update rota.live_jobs as j
        set run_at = v_now
        where j.id = any(v_ids) and j.run_at > v_now
        returning j.queue
    )
    select array_agg(distinct w.queue) into v_queues
    from woken as w;

    perform rota._wake(q.queue, v_now, v_now)
    from unnest(v_queues) as q(queue);

    delete from rota.event_waits as w
    where w.event = emit_event.event;

    return cardinality(v_ids);
end;
$$;

comment on function rota.emit_event is
    'Tell the jobs that wait for an event, now or later, that it has come; return how many waited.';
