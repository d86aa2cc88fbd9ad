-- The table is locked against others who make or take away walls, until this has ended: whether the
-- views are guarded is a matter of all walls. A trigger has them follow (_guard_views).
-- It holds for every statement that begins after the commit, of open sessions and transactions,
-- too; one at REPEATABLE READ sees it from its next transaction on, and a call that had passed its
-- check before may still commit. Who is behind a wall makes and takes away none.
create or replace function rota.wall(principal text, queue_pattern text)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_super boolean;
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

    select r.rolsuper into v_super
    from pg_catalog.pg_roles as r
    where r.rolname = principal;

    if not found then
        raise exception 'there is no role %', left(coalesce(principal, 'null'), 100)
            using errcode = 'RTN04';
    end if;

    if v_super then
        raise exception 'role % is a superuser, whom no wall can hold', principal
            using errcode = 'RTV01';
    end if;

    perform rota._lock_walls();

    insert into rota.queue_walls (principal, queue_pattern)
    values (principal, queue_pattern)
    on conflict do nothing;

    perform rota._record_action(
        'wall',
        details => jsonb_build_object('principal', principal, 'queue_pattern', queue_pattern)
    );
end;
$$;

comment on function rota.wall is
    'Let a role see and touch only the queues of its patterns: exact names, or "prefix.*".';
