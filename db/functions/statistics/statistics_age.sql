-- Times only, so it is for everybody who reads: what page and metric say their figures are of.
create or replace function rota.statistics_age()
    returns rota.statistics_age
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    select row(
        max(c.ran_at) filter (where c.chore = 'take_census'),
        max(c.took) filter (where c.chore = 'take_census'),
        max(c.since) filter (where c.chore = 'roll_up'),
        max(rota._recount_from(c.until, rota._now())) filter (where c.chore = 'roll_up')
    )::rota.statistics_age
    from rota.chores as c
$$;

comment on function rota.statistics_age is
    'Tell when the last census was taken, and from when until when the minutes are counted.';
