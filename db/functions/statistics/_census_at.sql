-- For who would have to count for himself otherwise: a person with a question, a standby, a house
-- without workers. One of the future, of a clock that was put back, is none.
create or replace function rota._census_at(at timestamptz, max_age interval)
    returns timestamptz
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select c.ran_at
    from rota.chores as c
    where c.chore = 'take_census' and c.ran_at between rota._later(at, -max_age) and at
$$;

comment on function rota._census_at is
    'Tell when the last census was taken; null if that is longer ago.';
