drop function if exists rota._missing_weeks(text, timestamptz, timestamptz);

-- Reads only: most calls of maintain find nothing to do, and lock nothing. Rows in the default
-- partition tell of times that nobody prepared.
create or replace function rota._missing_weeks(
    parent text,
    unit text,
    at timestamptz,
    older_than timestamptz
)
    returns timestamptz[]
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_ahead integer := case unit when 'hour' then 12 when 'day' then 7 else 4 end;
    v_caught timestamptz[];
begin
    execute format(
        'select array_agg(distinct date_trunc($2, f.finished_at, ''UTC''))
        from only rota.%I as f
        where f.finished_at >= $1',
        parent || '_default'
    ) using coalesce(older_than, '-infinity'), coalesce(unit, 'hour') into v_caught;

    return array(
        select w.start
        from (
            select rota._later(date_trunc(unit, at, 'UTC'), g.ahead * ('1 ' || unit)::interval)
            from generate_series(0, v_ahead) as g(ahead)
            where unit is not null
            union
            select u.start
            from unnest(v_caught) as u(start)
        ) as w(start)
        cross join lateral rota._open_range(
            parent, w.start, rota._later(w.start, ('1 ' || coalesce(unit, 'hour'))::interval)
        ) as o
        where o.starts_at < o.ends_at
            and to_regclass(
                format('rota.%I', rota._partition_name(parent, coalesce(unit, 'hour'), w.start))
            ) is null
        order by w.start
        limit 13
    );
end;
$$;

comment on function rota._missing_weeks is
    'List when partitions begin that there are not: of now, some ahead, and any whose rows the'
    ' default one holds.';
