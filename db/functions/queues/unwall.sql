-- Locks as wall does. With the last one the role sees everything again; to change a
-- pattern, the new one is added before the old one is taken away. Roles that are gone can be tidied
-- up.
create or replace function rota.unwall(principal text, queue_pattern text)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform rota._check_no_wall('unwall');

    perform rota._lock_walls();

    delete from rota.queue_walls as w
    where w.principal = unwall.principal and w.queue_pattern = unwall.queue_pattern;

    if not found then
        raise exception 'role % has no wall %',
            left(coalesce(principal, 'null'), 100), left(coalesce(queue_pattern, 'null'), 102)
            using errcode = 'RTN06';
    end if;

    perform rota._record_action(
        'unwall',
        details => jsonb_build_object('principal', principal, 'queue_pattern', queue_pattern)
    );
end;
$$;

comment on function rota.unwall is
    'Take a pattern of a role away; without any left the role sees every queue.';
