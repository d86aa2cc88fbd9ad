-- The logins that serve the API are those that are members of rota_api; if there are none, it is
-- the owner of the schema. A superuser can become anybody. From PostgreSQL 16 on, a membership says
-- itself whether its role can be set; before, each does.
create or replace function rota._missing_grant(principal text)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with named as (
        select r.oid, r.rolname, r.rolsuper
        from pg_catalog.pg_roles as r
        where r.rolcanlogin
            and not r.rolsuper
            and pg_has_role(
                r.oid, (select a.oid from pg_catalog.pg_roles as a where a.rolname = 'rota_api'),
                'MEMBER'
            )
    ), logins as (
        select n.* from named as n
        union all
        select r.oid, r.rolname, r.rolsuper
        from pg_catalog.pg_namespace as s
        join pg_catalog.pg_roles as r on r.oid = s.nspowner
        where s.nspname = 'rota' and not exists (select from named)
    ), version as (
        select s.setting::integer >= 160000 as is_16
        from pg_catalog.pg_settings as s
        where s.name = 'server_version_num'
    )
    select case when bool_and(not coalesce(
            l.rolsuper or pg_has_role(
                l.oid, (select p.oid from pg_catalog.pg_roles as p where p.rolname = principal),
                case when v.is_16 then 'SET' else 'MEMBER' end
            ),
            false
        ))
        then rota._grant_to_act_as(principal, min(l.rolname::text collate "C"))
    end
    from logins as l
    cross join version as v
$$;

comment on function rota._missing_grant is
    'Return the grant that the login of the API needs to act as this role, or null.';
