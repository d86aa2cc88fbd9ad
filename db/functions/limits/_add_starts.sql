drop function if exists rota._add_starts(
    timestamptz[], integer[], integer, interval, timestamptz
);

-- They go into the last cell that has not ended, or into a new one (_starts_left). One row; a table
-- for the same reason as there.
create or replace function rota._add_starts(
    number integer,
    period interval,
    cells timestamptz[],
    starts integer[],
    at timestamptz
)
    returns table (new_cells timestamptz[], new_starts integer[])
    language sql
    immutable
as $$
    select
        array_agg(c.ends_at order by c.ends_at),
        array_agg(c.starts order by c.ends_at)
    from (
        select e.ends_at, sum(e.starts)::integer as starts
        from (
            select least(u.ends_at, at + period / 64) as ends_at, u.starts
            from unnest(cells, starts) as u(ends_at, starts)
            where u.ends_at + period > at
                and u.ends_at <= at + period + greatest(period, interval '1 minute')
            union all
            select least(max(u.ends_at), at + period / 64), number
            from unnest(cells) as u(ends_at)
            where u.ends_at > at
                and u.ends_at <= at + period + greatest(period, interval '1 minute')
        ) as e
        group by e.ends_at
    ) as c
$$;

comment on function rota._add_starts is
    'Add starts to those that a window knows of, and forget those that it has left behind.';
