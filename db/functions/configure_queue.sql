-- Settings hold for jobs that are enqueued later (max_retries, timeout) and for attempts that fail
-- later (backoff). One row, locked by the upsert.
create or replace function rota.configure_queue(
    queue text,
    max_retries integer default null,
    backoff_base interval default null,
    backoff_cap interval default null,
    timeout interval default null
)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
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
    end;
begin
    perform rota._check_queue(queue);

    if v_complaint is not null then
        raise exception '%', v_complaint
            using errcode = 'RTV01';
    end if;

    insert into rota.queues as q (name, max_retries, backoff_base, backoff_cap, timeout)
    values (queue, max_retries, backoff_base, backoff_cap, timeout)
    on conflict (name) do update
    set max_retries = coalesce(excluded.max_retries, q.max_retries),
        backoff_base = coalesce(excluded.backoff_base, q.backoff_base),
        backoff_cap = coalesce(excluded.backoff_cap, q.backoff_cap),
        timeout = coalesce(excluded.timeout, q.timeout);
end;
$$;

comment on function rota.configure_queue is
    'Set the defaults of a queue; an argument left out stays as it is.';
