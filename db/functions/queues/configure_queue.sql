drop function if exists rota.configure_queue(
    text, integer, interval, interval, interval, text[]
);
drop function if exists rota.configure_queue(
    text, integer, interval, interval, interval, text[], integer, integer, interval, integer,
    integer, interval, boolean
);

-- Settings hold for jobs that are enqueued later (max_retries, timeout) and for attempts that fail
-- later (backoff); limits for attempts that start later; what is kept of a job is settled when its
-- attempt starts, and again by each maintain. One row, locked by the upsert, then those of
-- _limits_changed, then lanes.
create or replace function rota.configure_queue(
    queue text,
    max_retries integer default null,
    backoff_base interval default null,
    backoff_cap interval default null,
    timeout interval default null,
    unset text[] default null,
    max_running integer default null,
    max_starts integer default null,
    starts_period interval default null,
    key_max_running integer default null,
    key_max_starts integer default null,
    key_starts_period interval default null,
    key_in_order boolean default null,
    keep_completed interval default null,
    keep_failed interval default null
)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_unset text[] := coalesce(unset, '{}');
    v_given jsonb := jsonb_build_object(
        'max_retries', max_retries,
        'backoff_base', backoff_base::text,
        'backoff_cap', backoff_cap::text,
        'timeout', timeout::text,
        'max_running', max_running,
        'max_starts', max_starts,
        'starts_period', starts_period::text,
        'key_max_running', key_max_running,
        'key_max_starts', key_max_starts,
        'key_starts_period', key_starts_period::text,
        'key_in_order', key_in_order,
        'keep_completed', keep_completed::text,
        'keep_failed', keep_failed::text
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
        else coalesce(
            rota._bad_limits('', max_running, max_starts, starts_period),
            rota._bad_limits('key_', key_max_running, key_max_starts, key_starts_period),
            rota._bad_keep('keep_completed', keep_completed, true),
            rota._bad_keep('keep_failed', keep_failed, false),
            rota._bad_unset(v_unset, array(select jsonb_object_keys(v_given)), v_given, 'queue')
        )
    end;
    v_before rota.queues;
    v_after rota.queues;
begin
    perform rota._check_wall(queue);
    perform rota._check_queue(queue);

    if v_complaint is null then
        insert into rota.queues as q (name)
        values (queue)
        on conflict do nothing;

        select q.* into v_before
        from rota.queues as q
        where q.name = configure_queue.queue
        for no key update;

        -- What is given, what was there, and nothing of what is unset.
        v_after := jsonb_populate_record(
            v_before, jsonb_strip_nulls(v_given) || (
                select coalesce(jsonb_object_agg(u.setting, null), '{}')
                from unnest(v_unset) as u(setting)
            )
        );
        v_complaint := case
            when v_after.max_starts is not null and v_after.starts_period is null
                then 'max_starts needs a starts_period'
            when v_after.key_max_starts is not null and v_after.key_starts_period is null
                then 'key_max_starts needs a key_starts_period'
            when v_after.key_starts_period is null and exists (
                select from rota.flows as f
                where f.queue = v_after.name and f.max_starts is not null
                    and f.starts_period is null
            )
                then 'key_starts_period is the one of keys with max_starts of their own'
        end;
    end if;

    if v_complaint is not null then
        raise exception '%', v_complaint
            using errcode = 'RTV01';
    end if;

    update rota.queues as q
    set max_retries = v_after.max_retries,
        backoff_base = v_after.backoff_base,
        backoff_cap = v_after.backoff_cap,
        timeout = v_after.timeout,
        max_running = v_after.max_running,
        max_starts = v_after.max_starts,
        starts_period = v_after.starts_period,
        key_max_running = v_after.key_max_running,
        key_max_starts = v_after.key_max_starts,
        key_starts_period = v_after.key_starts_period,
        key_in_order = nullif(v_after.key_in_order, false),
        keep_completed = v_after.keep_completed,
        keep_failed = v_after.keep_failed
    where q.name = configure_queue.queue;

    if (
        v_before.max_running, v_before.max_starts, v_before.starts_period,
        v_before.key_max_running, v_before.key_max_starts, v_before.key_starts_period,
        v_before.key_in_order
    ) is distinct from (
        v_after.max_running, v_after.max_starts, v_after.starts_period,
        v_after.key_max_running, v_after.key_max_starts, v_after.key_starts_period,
        nullif(v_after.key_in_order, false)
    ) then
        perform rota._limits_changed(
            queue,
            v_before.max_running is null and v_after.max_running is not null
                or v_before.max_starts is null and v_after.max_starts is not null
                or v_before.key_max_running is null and v_after.key_max_running is not null
                or v_before.key_max_starts is null and v_after.key_max_starts is not null
                or v_before.key_in_order is null and v_after.key_in_order
        );
    end if;

    if v_before.keep_completed is distinct from v_after.keep_completed then
        perform rota._keep_again(queue);
    end if;

    perform rota._record_action(
        'configure_queue',
        queue => queue,
        details => jsonb_build_object(
            'max_retries', max_retries,
            'backoff_base', rota._span_text(backoff_base),
            'backoff_cap', rota._span_text(backoff_cap),
            'timeout', rota._span_text(timeout),
            'unset', nullif(v_unset, '{}')
        ) || jsonb_strip_nulls(jsonb_build_object(
            'max_running', max_running,
            'max_starts', max_starts,
            'starts_period', rota._span_text(starts_period),
            'key_max_running', key_max_running,
            'key_max_starts', key_max_starts,
            'key_starts_period', rota._span_text(key_starts_period),
            'key_in_order', key_in_order,
            'keep_completed', rota._span_text(keep_completed),
            'keep_failed', rota._span_text(keep_failed)
        ))
    );
end;
$$;

comment on function rota.configure_queue is
    'Set defaults and limits of a queue, and how long it is kept what ended; unset what is named;'
    ' what is left out stays as it is.';
