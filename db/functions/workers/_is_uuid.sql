create or replace function rota._is_uuid(worker text)
    returns boolean
    language sql
    immutable
as $$
    select worker ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
$$;

comment on function rota._is_uuid is
    'Tell whether the name of a worker is a UUID, as Rota''s own workers have.';
