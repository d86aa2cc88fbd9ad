-- "turn" in ASCII: the first half of the two-part keys, so that our locks meet nobody else's.
create or replace function rota._arrival_class()
    returns integer
    language sql
    immutable
as $$
    select 1953853038
$$;

comment on function rota._arrival_class is
    'Name the class of advisory locks of those who add jobs with keys.';
