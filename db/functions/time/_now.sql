-- The one clock. Every decision about time reads it once into a variable: now() stands still in
-- a long transaction and would hand out leases that are born expired. Only the tests' deploy
-- replaces this function; a setting that any session could change would let any session expire
-- every lease.
create or replace function rota._now()
    returns timestamptz
    language sql
    volatile
as $$
    select clock_timestamp()
$$;

comment on function rota._now is
    'Tell the time by which Rota decides.';
