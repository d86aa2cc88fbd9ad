drop function if exists rota.configure_queue(text, integer, interval, interval, interval);

-- Settings hold for jobs that are enqueued later (max_retries, timeout) and for attempts that fail
-- later (backoff). One row, locked by the upsert.
create or replace function rota.configure_queue(
    queue text,
    max_retries integer default null,
    backoff_base interval default null,
    backoff_cap interval default null,
    timeout interval default null,
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
    v_given text[] := array_remove(
        array[
            case when max_retries is not null then 'max_retries' end,
            case when backoff_base is not null then 'backoff_base' end,
            case when backoff_cap is not null then 'backoff_cap' end,
            case when timeout is not null then 'timeout' end
        ],
        null
    );
    v_unknown text := (
        select min(coalesce(u.setting, 'null') collate "C")
        from unnest(v_unset) as u(setting)
        where u.setting is null
            or u.setting not in ('max_retries', 'backoff_base', 'backoff_cap', 'timeout')
    );
    v_complaint text := case
        when max_retries not between 0 and 1000
            then format('max_retries must be from 0 to 1000, not %s', max_retries)
        when backoff_base <= interval '0' or backoff_base > interval '366 days'
            then format(
                'backoff_base must be from 0 to 366 days, not %s', rota._span_text(backoff_base)
            )
        when backoff_cap <= interval '0' or backoff_cap > interval '366 days'
            then format(
                'backoff_cap must be from 0 to 366 days, not %s', rota._span_text(backoff_cap)
            )
        when timeout > interval '366 days' or not rota._leads_on(timeout)
            then format('timeout must be from 0 to 366 days, not %s', rota._span_text(timeout))
        when v_unknown is not null
            then format('unset: %s is not a setting of a queue', left(v_unknown, 100))
        when v_given && v_unset
            then format('%s is both given and unset', (
                select g.setting from unnest(v_given) as g(setting) where g.setting = any(v_unset)
                limit 1
            ))
    end;
begin
    perform rota._check_wall(queue);
    perform rota._check_queue(queue);

    if v_complaint is not null then
        raise exception '%', v_complaint
            using errcode = 'RTV01';
    end if;

    insert into rota.queues as q (name, max_retries, backoff_base, backoff_cap, timeout)
    values (queue, max_retries, backoff_base, backoff_cap, timeout)
    on conflict (name) do update
    set max_retries = case when 'max_retries' <> all(v_unset)
            then coalesce(excluded.max_retries, q.max_retries)
        end,
        backoff_base = case when 'backoff_base' <> all(v_unset)
            then coalesce(excluded.backoff_base, q.backoff_base)
        end,
        backoff_cap = case when 'backoff_cap' <> all(v_unset)
            then coalesce(excluded.backoff_cap, q.backoff_cap)
        end,
        timeout = case when 'timeout' <> all(v_unset)
            then coalesce(excluded.timeout, q.timeout)
        end;

    perform rota._record_action(
        'configure_queue',
        queue => queue,
        details => jsonb_build_object(
            'max_retries', max_retries,
            'backoff_base', rota._span_text(backoff_base),
            'backoff_cap', rota._span_text(backoff_cap),
            'timeout', rota._span_text(timeout),
            'unset', nullif(v_unset, '{}')
        )
    );
end;
$$;

comment on function rota.configure_queue is
    'Set defaults of a queue, and unset those that are named; what is left out stays as it is.';
