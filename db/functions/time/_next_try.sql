-- A minute later at first, and as much later again as it has been tried already, up to an hour.
create or replace function rota._next_try(since timestamptz, at timestamptz)
    returns timestamptz
    language sql
    immutable
as $$
    select at + least(greatest(at - since, interval '1 minute'), interval '1 hour')
$$;

comment on function rota._next_try is
    'Say when to compute the slots of a schedule again that cannot be computed since some time.';
