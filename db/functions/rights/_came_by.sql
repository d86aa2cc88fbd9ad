-- Whoever may set a role may set those which that role is a member of, too, and rota_operator has
-- no walls. So the walls of a role hold as long as the session has that role's rights, and where
-- the role that is set was reached through it: there is no way from the login to the role, by
-- memberships, but through walled ones. A login that is a member of both has that other way.
-- Before PostgreSQL 16 every membership lets its role be set. Asked only where _acts_for_itself.
create or replace function rota._came_by(principal oid)
    returns boolean
    language sql
    stable
    parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    with recursive ends as (
        select s.oid as login, c.oid as caller
        from pg_catalog.pg_roles as s
        join pg_catalog.pg_roles as c on c.rolname = rota._caller()
        where s.rolname = session_user
    ), way as (
        select e.login as role
        from ends as e
        union
        select m.roleid
        from way as y
        join pg_catalog.pg_roles as r on r.oid = y.role
        join pg_catalog.pg_auth_members as m on m.member = y.role
        where coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)
            and not exists (select from rota.queue_walls as w where w.principal = r.rolname)
    )
    select exists (
        select
        from ends as e
        where pg_has_role(e.login, _came_by.principal, 'usage')
            or pg_has_role(e.login, _came_by.principal, 'member')
            and pg_has_role(_came_by.principal, e.caller, 'member')
            and e.caller not in (select y.role from way as y)
    )
$$;

comment on function rota._came_by is
    'Tell whether the session got to the role that it has set by way of this one.';
