create or replace function rota._is_census_due(
    at timestamptz,
    older_than interval,
    times integer
)
    returns boolean
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    select not exists (
        select
        from rota.chores as c
        where c.chore = 'take_census'
            and c.ran_at <= at
            and c.ran_at > rota._later(
                at, -greatest(older_than, least(times * c.took, interval '10 minutes'))
            )
    )
$$;

comment on function rota._is_census_due is
    'Tell whether the last census is so old, and was so quick, that another may be taken.';
