drop function if exists rota._starts_left(
    timestamptz[], integer[], integer, interval, timestamptz
);

-- A sliding window: at most so many starts in any span of that length. Starts are kept by cells of
-- a 64th of the period (_add_starts), each as if all of it had started at its end: so there are
-- never too many, and the price is a delay of a 64th. A cell that ends later than it can is of a
-- clock that was put back, or of a claim that began after the caller, and counts as if it ended
-- when it can; but not when it is so far ahead that the window would be shut until the clock is
-- there again.
--
-- One row; a table, so that the planner puts it in the place of its call: claims ask of each key.
create or replace function rota._starts_left(
    max_starts integer,
    period interval,
    cells timestamptz[],
    starts integer[],
    at timestamptz
)
    returns table (number integer, opens_at timestamptz)
    language sql
    immutable
as $$
    select
        greatest(0, max_starts - coalesce(sum(c.starts), 0))::integer,
        min(c.ends_at) + period
    from (
        select least(u.ends_at, at + period / 64) as ends_at, u.starts
        from unnest(cells, starts) as u(ends_at, starts)
        where u.ends_at <= at + period + greatest(period, interval '1 minute')
    ) as c
    where c.ends_at + period > at
$$;

comment on function rota._starts_left is
    'Say how many more may start now, and when the first of those that count does no longer.';
