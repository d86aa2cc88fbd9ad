-- Reads only: most calls of maintain find nothing to do, and lock nothing. Rows in the default
-- partition tell of weeks that nobody prepared in their time.
create or replace function rota._missing_weeks(
    parent text,
    at timestamptz,
    older_than timestamptz
)
    returns timestamptz[]
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_caught timestamptz[];
begin
    execute format(
        'select array_agg(distinct date_trunc(''week'', f.finished_at, ''UTC''))
        from only rota.%I as f
        where f.finished_at >= $1',
        parent || '_default'
    ) using coalesce(older_than, '-infinity') into v_caught;

    return array(
        select w.week
        from (
            select rota._later(date_trunc('week', at, 'UTC'), g.ahead * interval '7 days')
            from generate_series(0, 4) as g(ahead)
            union
            select u.week
            from unnest(v_caught) as u(week)
        ) as w(week)
        cross join lateral rota._open_range(
            parent, w.week, rota._later(w.week, interval '7 days')
        ) as o
        where o.starts_at < o.ends_at
            and to_regclass(format('rota.%I', rota._partition_name(parent, w.week))) is null
        order by w.week
        limit 10
    );
end;
$$;

comment on function rota._missing_weeks is
    'List weeks without a partition: this one, four more, and any whose rows the default holds.';
