drop function if exists rota._check_schedule(
    text, jsonb, interval, text, text, text, text, integer, integer, interval, jsonb
);

create or replace function rota._check_schedule(
    task text,
    payload jsonb,
    every interval,
    cron text,
    time_zone text,
    name text,
    queue text,
    priority integer,
    max_retries integer,
    timeout interval,
    headers jsonb,
    key text
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_complaint text := coalesce(
        rota._bad_job(
            task, payload, queue, null, priority, max_retries, timeout, null, headers,
            key
        ),
        case
            when num_nonnulls(every, cron) <> 1
                then 'give either every or cron'
            when time_zone is null
                then 'time_zone must not be null'
            when length(name) not between 1 and 200 or name ~ '[[:cntrl:]]'
                then 'name must have 1 to 200 characters and no control characters'
            when not isfinite(every) or every <= interval '0'
                or extract(month from every) < 0 or extract(year from every) < 0
                or extract(day from every) < 0 or every - date_trunc('day', every) < interval '0'
                then format('every must be a positive interval, not %s', rota._span_text(every))
            when every < interval '1 millisecond' or every > interval '100 years'
                then format(
                    'every must be from 1 millisecond to 100 years, not %s', rota._span_text(every)
                )
        end
    );
begin
    if v_complaint is not null then
        raise exception '%', v_complaint
            using errcode = 'RTV01';
    end if;

    perform rota._check_zone(time_zone);

    if cron is not null then
        perform rota._check_cron(cron, time_zone);
    end if;
end;
$$;

comment on function rota._check_schedule is
    'Refuse a job or a timing that could not be kept, and say why.';
