-- A connection, a lock, memory, a cancel, a shutdown: the whole call fails with these, and repeated
-- later it succeeds. (A cancel and a timeout are not caught by "others" in the first place.)
create or replace function rota._is_passing(code text)
    returns boolean
    language sql
    immutable
as $$
    select left(code, 2) in ('08', '25', '40', '53', '55', '57', '58')
$$;

comment on function rota._is_passing is
    'Tell whether an error comes from the moment and not from the row that was looked at.';
