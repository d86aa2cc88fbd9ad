-- A token gives all that its principal may, so it is in the hands of those who may be the principal
-- anyway, and whose own walls hold it, too: a tenant is a member of rota_operator, say, and a token
-- of that role would see everything. The tokens of a role that is gone give nothing, and anybody
-- without walls may tidy them up. The view tokens says the same.
create or replace function rota._may_manage(principal text)
    returns boolean
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        (
            select pg_has_role(rota._caller(), r.oid, 'MEMBER')
                and not exists (
                    select
                    from rota._binding_walls() as w
                    join pg_catalog.pg_roles as b on b.rolname = w.principal
                    where not pg_has_role(r.oid, b.oid, 'USAGE')
                )
            from pg_catalog.pg_roles as r
            where r.rolname = principal
        ),
        not exists (select from rota._binding_walls())
    )
$$;

comment on function rota._may_manage is
    'Tell whether the tokens of a principal are in the hands of the caller.';
