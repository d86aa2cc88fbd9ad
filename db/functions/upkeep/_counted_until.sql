-- What was not counted is kept for a day more, for statistics are to be exact, and not for ever:
-- one transaction that stays open holds them up.
create or replace function rota._counted_until(at timestamptz)
    returns timestamptz
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select greatest(
        (select c.until from rota.chores as c where c.chore = 'roll_up'),
        rota._later(at, -interval '1 day')
    )
$$;

comment on function rota._counted_until is
    'Tell up to when history may go, for it has been counted.';
