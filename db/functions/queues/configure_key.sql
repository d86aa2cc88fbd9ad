-- Lock order: the queue's row, then the key's lock, which a claim of the key holds until it has
-- committed, then its row. So no claim makes that row at the same moment, and none waits for us.
create or replace function rota.configure_key(
    queue text,
    key text,
    max_running integer default null,
    max_starts integer default null,
    starts_period interval default null,
    unset text[] default null
)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_unset text[] := coalesce(unset, '{}');
    v_complaint text;
    v_queue rota.queues;
    v_before rota.flows;
    v_after rota.flows;
begin
    perform rota._check_wall(queue);
    perform rota._check_queue(queue);

    v_complaint := coalesce(
        case when key is null or length(key) not between 1 and 200
            then format('key must have 1 to 200 characters, not %s', coalesce(length(key), 0))
        end,
        rota._bad_limits('', max_running, max_starts, starts_period),
        rota._bad_unset(
            v_unset,
            array['max_running', 'max_starts', 'starts_period'],
            jsonb_build_object(
                'max_running', max_running, 'max_starts', max_starts,
                'starts_period', starts_period::text
            ),
            'key'
        )
    );

    if v_complaint is null then
        insert into rota.queues as q (name)
        values (queue)
        on conflict do nothing;

        select q.* into v_queue
        from rota.queues as q
        where q.name = configure_key.queue
        for no key update;

        perform
        from rota.flow_locks as l
        where l.queue = configure_key.queue and l.number = rota._flow_number(key)
        for no key update;

        select f.* into v_before
        from rota.flows as f
        where f.queue = configure_key.queue and f.key = configure_key.key;

        v_after := v_before;
        v_after.max_running := case when 'max_running' <> all(v_unset)
            then coalesce(max_running, v_before.max_running)
        end;
        v_after.max_starts := case when 'max_starts' <> all(v_unset)
            then coalesce(max_starts, v_before.max_starts)
        end;
        v_after.starts_period := case when 'starts_period' <> all(v_unset)
            then coalesce(starts_period, v_before.starts_period)
        end;

        if v_after.max_starts is not null
            and coalesce(v_after.starts_period, v_queue.key_starts_period) is null
        then
            v_complaint := 'max_starts needs a starts_period';
        end if;
    end if;

    if v_complaint is not null then
        raise exception '%', v_complaint
            using errcode = 'RTV01';
    end if;

    insert into rota.flows as f (queue, key, max_running, max_starts, starts_period)
    values (queue, key, v_after.max_running, v_after.max_starts, v_after.starts_period)
    on conflict on constraint flows_pkey do update
    set max_running = excluded.max_running,
        max_starts = excluded.max_starts,
        starts_period = excluded.starts_period;

    perform rota._limits_changed(
        queue,
        v_after.max_running is not null
                and coalesce(v_before.max_running, v_queue.key_max_running) is null
            or v_after.max_starts is not null
                and coalesce(v_before.max_starts, v_queue.key_max_starts) is null
    );

    perform rota._record_action(
        'configure_key',
        queue => queue,
        details => jsonb_build_object(
            'key', key,
            'max_running', max_running,
            'max_starts', max_starts,
            'starts_period', rota._span_text(starts_period),
            'unset', nullif(v_unset, '{}')
        )
    );
end;
$$;

comment on function rota.configure_key is
    'Set limits of one key of a queue, and unset those that are named: then the queue''s hold.';
