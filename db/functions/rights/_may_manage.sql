-- A token gives all that its principal may, so it is in the hands of those who may be the principal
-- anyway. The tokens of a role that is gone give nothing, and anybody may tidy them up.
create or replace function rota._may_manage(principal text)
    returns boolean
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        (
            select pg_has_role(rota._caller(), r.oid, 'MEMBER')
            from pg_catalog.pg_roles as r
            where r.rolname = principal
        ),
        true
    )
$$;

comment on function rota._may_manage is
    'Tell whether the tokens of a principal are in the hands of the caller.';
