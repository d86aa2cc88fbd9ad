create or replace function rota._is_lease(lease interval)
    returns boolean
    language sql
    immutable
as $$
    select lease is not null and lease <= interval '30 days' and rota._leads_on(lease)
$$;

comment on function rota._is_lease is
    'Tell whether a lease may last this long.';
