create or replace function rota._check_schedule_options(
    every interval,
    starts_at timestamptz,
    ends_at timestamptz,
    max_runs bigint,
    fixed_delay boolean,
    jitter interval,
    misfire text,
    misfire_cap integer,
    max_lateness interval,
    overlap text
)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_complaint text := case
        when starts_at not between '0001-01-02 00:00:00+00' and '9998-12-31 00:00:00+00'
            then format(
                'starts_at must lie between the years 1 and 9998, not at %s',
                rota._utc_text(starts_at)
            )
        when ends_at not between '0001-01-02 00:00:00+00' and '9998-12-31 00:00:00+00'
            then format(
                'ends_at must lie between the years 1 and 9998, not at %s', rota._utc_text(ends_at)
            )
        when max_runs < 1
            then format('max_runs must be at least 1, not %s', max_runs)
        when fixed_delay is null or (fixed_delay and every is null)
            then 'fixed_delay is for every, not for cron, and not null'
        when jitter is null or jitter not between interval '0' and interval '1 day'
            then format(
                'jitter must be from 0 to 1 day, not %s', coalesce(rota._span_text(jitter), 'null')
            )
        when jitter >= every and jitter > interval '0'
            then format(
                'jitter %s must be less than every %s',
                rota._span_text(jitter), rota._span_text(every)
            )
        when misfire is null or misfire not in ('skip', 'once', 'all')
            then format('misfire must be skip, once or all, not %s', coalesce(misfire, 'null'))
        when misfire_cap is null or misfire_cap not between 1 and 1000
            then format(
                'misfire_cap must be from 1 to 1000, not %s', coalesce(misfire_cap::text, 'null')
            )
        when max_lateness <= interval '0' or max_lateness > interval '100 years'
            then format(
                'max_lateness must be from 0 to 100 years, not %s', rota._span_text(max_lateness)
            )
        when overlap is null or overlap not in ('coalesce', 'catch_up')
            then format('overlap must be coalesce or catch_up, not %s', coalesce(overlap, 'null'))
    end;
begin
    if v_complaint is not null then
        raise exception '%', v_complaint
            using errcode = 'RTV01';
    end if;
end;
$$;

comment on function rota._check_schedule_options is
    'Refuse an option of a schedule that is out of range, and name it.';
