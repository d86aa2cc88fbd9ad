-- A wall binds its role and whoever has that role's rights: a member that inherits them would
-- otherwise get round it by not setting the role. Who is a member without inheriting has nothing of
-- it until the role is set, and is bound then; who goes on to set a role of that role's stays bound
-- (_came_by). Who has the rights of the schema's owner, as a superuser has, may read the tables and
-- is never bound; nor is the login of the API before it has become somebody, for then it looks
-- after all (that it inherits what it may become is usual before PostgreSQL 16). Nobody else is let
-- through. A caller whose role was dropped gets an error of PostgreSQL's, not all that there is.
create or replace function rota._binding_walls()
    returns setof rota.queue_walls
    language sql
    stable
    parallel safe
    set search_path = pg_catalog, pg_temp
as $$
    select w.*
    from rota.queue_walls as w
    join pg_catalog.pg_roles as r on r.rolname = w.principal
    where (
            pg_has_role(rota._caller()::name, r.oid, 'usage')
            or (select rota._acts_for_itself()) and rota._came_by(r.oid)
        )
        and not exists (
            select
            from pg_catalog.pg_namespace as s
            where s.nspname = 'rota' and pg_has_role(rota._caller()::name, s.nspowner, 'usage')
        )
        and not exists (
            select
            from pg_catalog.pg_roles as a
            where a.rolname = 'rota_api'
                and rota._caller() = session_user
                and pg_has_role(session_user, a.oid, 'member')
        )
$$;

comment on function rota._binding_walls is
    'List the walls that bind the caller; no rows for one who sees everything.';
