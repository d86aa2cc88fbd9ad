-- The table is locked against others who make or take away walls, until this has ended: whether the
-- views are guarded is a matter of all walls. A trigger has them follow (_guard_views).
-- It holds for every statement that begins after the commit, of open sessions and transactions,
-- too; one at REPEATABLE READ sees it from its next transaction on, and a call that had passed its
-- check before may still commit. Who is behind a wall makes and takes away none; so nobody builds
-- one around himself, which he could not take away again. Whom it would bind is asked when it is
-- there, of what is asked ever after. What would hold nobody, or the API, is no wall.
create or replace function rota.wall(principal text, queue_pattern text)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_reason text;
    v_complaint text := rota._bad_queue(
        case when right(queue_pattern, 2) = '.*' then left(queue_pattern, -2) else queue_pattern end
    );
begin
    perform rota._check_no_wall('wall');

    if v_complaint is not null then
        raise exception 'queue_pattern must be the name of a queue, or a beginning and ".*"'
            using errcode = 'RTV01',
                  hint = format('Without ".*": %s', v_complaint);
    end if;

    select case
            when r.rolsuper then 'role %s is a superuser, whom no wall can hold'
            when pg_has_role(r.oid, n.nspowner, 'member')
                then 'role %s can be the owner of the schema rota, whom no wall can hold'
            when r.rolcanlogin and pg_has_role(r.oid, a.oid, 'member')
                then 'role %s is a login of the API, which serves everybody'
            when pg_has_role(a.oid, r.oid, 'usage')
                then 'role rota_api has the rights of role %s, and serves everybody'
        end
    into v_reason
    from pg_catalog.pg_roles as r
    cross join pg_catalog.pg_roles as a
    cross join pg_catalog.pg_namespace as n
    where r.rolname = principal and a.rolname = 'rota_api' and n.nspname = 'rota';

    if not found then
        raise exception 'there is no role %', left(coalesce(principal, 'null'), 100)
            using errcode = 'RTN04';
    end if;

    if v_reason is not null then
        raise exception '%', format(v_reason, principal)
            using errcode = 'RTV01',
                  hint = 'Build walls around the roles of tenants; tokens stand for such roles.';
    end if;

    perform rota._lock_walls();

    insert into rota.queue_walls (principal, queue_pattern)
    values (principal, queue_pattern)
    on conflict do nothing;

    if exists (
        select from rota._binding_walls() as w where w.principal = wall.principal
    ) then
        raise exception 'role % has the rights of role %, and would be behind its walls, too',
            rota._caller(), principal
            using errcode = 'RTV01',
                  hint = 'The owner of the schema may build it, or who does not inherit that role.';
    end if;

    perform rota._record_action(
        'wall',
        details => jsonb_build_object('principal', principal, 'queue_pattern', queue_pattern)
    );
end;
$$;

comment on function rota.wall is
    'Let a role see and touch only the queues of its patterns: exact names, or "prefix.*".';
