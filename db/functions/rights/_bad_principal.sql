-- Whoever has a token of the owner, or of a role with powers over the server, has the house. A
-- member of such a role could become it. Looked at when a token is made and when it is shown, for a
-- role may be given powers later.
create or replace function rota._bad_principal(principal text)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format(
        case when r.rolname = principal
            then 'role %1$s is no principal for a token: it %3$s'
            else 'role %1$s is no principal for a token: it is a member of %2$s, which %3$s'
        end,
        principal, r.rolname,
        case
            when r.rolsuper then 'is a superuser'
            when r.rolcreaterole then 'may create roles'
            when r.rolbypassrls then 'passes by row security'
            when r.rolreplication then 'may replicate'
            when r.rolname = 'rota_api' then 'looks up tokens'
            else 'owns the schema rota'
        end
    )
    from pg_catalog.pg_roles as p
    join pg_catalog.pg_roles as r on pg_has_role(p.oid, r.oid, 'MEMBER')
    where p.rolname = principal
        and (
            r.rolsuper or r.rolcreaterole or r.rolbypassrls or r.rolreplication
            or r.rolname = 'rota_api'
            or r.oid = (
                select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'rota'
            )
        )
    order by r.rolname <> principal, r.rolname collate "C"
    limit 1
$$;

comment on function rota._bad_principal is
    'Say why no token may stand for this role, or return null.';
