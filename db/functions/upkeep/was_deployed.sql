-- For a process that finds other functions than those of its checkout: if its own were here before,
-- those of now are later ones, and serve it.
create or replace function rota.was_deployed(version text)
    returns boolean
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select
        from rota.versions as v
        where v.version = was_deployed.version
    )
$$;

comment on function rota.was_deployed is
    'Tell whether functions of this version are deployed, or were before those of now.';
