-- The power of two is exact in a float, so the rounded logarithm is exact too. Pure arithmetic.
create or replace function rota._cron_lowest(bits bigint)
    returns integer
    language sql
    immutable
as $$
    select round(log((nullif(bits, 0) & -bits)::float8) / log(2::float8))::integer;
$$;

comment on function rota._cron_lowest is
    'Give the number of the lowest bit that is set, or null when none is.';
