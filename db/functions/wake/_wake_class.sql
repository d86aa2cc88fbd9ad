-- "rota" in ASCII: the first half of the two-part advisory lock keys by which workers say that
-- they sleep, so that they meet no other application's locks.
create or replace function rota._wake_class()
    returns integer
    language sql
    immutable
as $$
    select 1919906913
$$;

comment on function rota._wake_class is
    'Name the class of advisory locks that sleeping workers hold.';
