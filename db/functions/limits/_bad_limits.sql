-- A period is a length of time, so it has no months: these are of 28 to 31 days.
create or replace function rota._bad_limits(
    prefix text,
    max_running integer,
    max_starts integer,
    starts_period interval
)
    returns text
    language sql
    stable
as $$
    select case
        when max_running not between 1 and 1000000
            then format(
                '%smax_running must be from 1 to 1000000, not %s; to start none, pause the queue',
                prefix, max_running
            )
        when max_starts not between 1 and 1000000
            then format(
                '%smax_starts must be from 1 to 1000000, not %s; to start none, pause the queue',
                prefix, max_starts
            )
        when not isfinite(starts_period) or extract(month from starts_period) <> 0
            or extract(year from starts_period) <> 0
            or starts_period not between interval '1 ms' and interval '366 days'
            then format(
                '%sstarts_period must be from 1 millisecond to 366 days, without months or years, '
                    'not %s',
                prefix, rota._span_text(starts_period)
            )
    end
$$;

comment on function rota._bad_limits is
    'Say what is wrong with limits, or return null.';
