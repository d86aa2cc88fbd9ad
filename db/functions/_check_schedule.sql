create or replace function rota._check_schedule(
    task text,
    payload jsonb,
    every interval,
    cron text,
    time_zone text,
    starts_at timestamptz,
    name text,
    misfire text,
    queue text,
    priority integer,
    max_retries integer,
    timeout interval
)
    returns void
    language plpgsql
    stable
    set search_path = ''
as $$
declare
    v_complaint text := coalesce(
        rota._bad_job(task, payload, queue, null, priority, max_retries, timeout, null),
        case
            when num_nonnulls(every, cron) <> 1
                then 'give either every or cron'
            when not isfinite(every) or every <= interval '0'
                or extract(epoch from every) not between 1 and 3155760000
                then format('every must be from 1 second to 100 years, not %s', every)
            when starts_at not between '0001-01-02 00:00:00+00' and '9998-12-31 00:00:00+00'
                then format('starts_at must lie between the years 1 and 9998, not at %s', starts_at)
            when length(name) not between 1 and 200 or name ~ '[[:cntrl:]]'
                then 'name must have 1 to 200 characters and no control characters'
            when misfire is null or misfire not in ('skip', 'once', 'all')
                then format('misfire must be skip, once or all, not %s', coalesce(misfire, 'null'))
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
    'Refuse a schedule that could not be kept, and say why.';
