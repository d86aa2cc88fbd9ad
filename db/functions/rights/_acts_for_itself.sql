-- A front acts for others, as the login of the API does, which serves everybody and sets nothing
-- but the role that a token stands for: that role alone counts. So it does for whoever can be the
-- owner of the schema, who can read the tables.
create or replace function rota._acts_for_itself()
    returns boolean
    language sql
    stable
    parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select rota._caller() <> session_user and not exists (
        select
        from pg_catalog.pg_roles as r
        where (
                r.rolname = 'rota_api'
                or r.oid = (
                    select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'rota'
                )
            )
            and pg_has_role(session_user, r.oid, 'member')
    )
$$;

comment on function rota._acts_for_itself is
    'Tell whether the session has set a role, and not for somebody whom it serves.';
