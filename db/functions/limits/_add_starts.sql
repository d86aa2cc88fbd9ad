create or replace function rota._add_starts(
    inout cells timestamptz[],
    inout starts integer[],
    number integer,
    period interval,
    at timestamptz
)
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
begin
    select
        coalesce(array_agg(c.ends_at order by c.ends_at), '{}'),
        coalesce(array_agg(c.starts order by c.ends_at), '{}')
    into cells, starts
    from (
        select least(u.ends_at, at + period / 64) as ends_at, sum(u.starts)::integer as starts
        from unnest(cells, starts) as u(ends_at, starts)
        where u.ends_at <= at + period + greatest(period, interval '1 minute')
        group by 1
    ) as c
    where c.ends_at + period > at;

    if cells[cardinality(cells)] > at then
        starts[cardinality(starts)] := starts[cardinality(starts)] + number;
    else
        cells := cells || (at + period / 64);
        starts := starts || number;
    end if;
end;
$$;

comment on function rota._add_starts is
    'Add starts to those that a window knows of, and forget those that it has left behind.';
