create or replace function rota._sum_histograms(histograms bigint[])
    returns bigint[]
    language sql
    immutable
as $$
    select array(
        select sum(u.number)::bigint
        from unnest(histograms) with ordinality as u(number, place)
        group by (u.place - 1) % 14
        order by (u.place - 1) % 14
    )
$$;

comment on function rota._sum_histograms is
    'Add up histograms, given as an array of them.';
