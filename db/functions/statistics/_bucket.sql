-- Bucket 1 is up to 1 ms, each other one up to four times as long, 13 up to 4.66 hours, and 14 all
-- the rest. Counted are the bounds that are not passed, from the longest down, so that each bound
-- belongs to its bucket, as Prometheus has it.
create or replace function rota._bucket(seconds float8)
    returns integer
    language sql
    immutable
as $$
    select 14 - width_bucket(-seconds, '{
        -16777.216, -4194.304, -1048.576, -262.144, -65.536, -16.384, -4.096, -1.024, -0.256,
        -0.064, -0.016, -0.004, -0.001
    }'::float8[])
$$;

comment on function rota._bucket is
    'Number the bucket of a histogram that a span of time falls into; null for none.';
