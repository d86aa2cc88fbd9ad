create or replace function rota._interval_slot(
    starts_at timestamptz,
    every interval,
    time_zone text,
    after timestamptz
)
    returns timestamptz
    language sql
    stable
as $$
    select n.slot from rota._interval_next(starts_at, every, time_zone, after) as n
$$;

comment on function rota._interval_slot is
    'Give the least moment after another on the grid that starts at starts_at and repeats.';
