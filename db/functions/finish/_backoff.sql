-- Total for every value that a table can hold: the exponent is clamped before power(), which
-- overflows at 2^1024, and the seconds before make_interval(), which wraps to a negative interval
-- on PostgreSQL 15. Base and cap are at most 366 days by a CHECK, attempts at most 1001.
-- Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
create or replace function rota._backoff(attempt integer, base interval, cap interval)
    returns interval
    language sql
    volatile
as $$
    select make_interval(secs => random() * least(
        extract(epoch from coalesce(cap, interval '1 hour'))::double precision,
        extract(epoch from coalesce(base, interval '5 seconds'))::double precision
            * power(2, least(greatest(attempt - 1, 0), 40))
    ))
$$;

comment on function rota._backoff is
    'Draw the delay before the attempt that follows this one, exponential with full jitter.';
