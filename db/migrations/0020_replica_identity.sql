-- depends: 0012_lanes_told_apart

-- A table in a publication (one for all tables takes in ours) can be updated and deleted from only
-- if its rows can be told apart, and executions have no key. No price is paid but by rows that are
-- deleted while they are published. The parent is locked first: whoever reads or writes a week has
-- locked it before.
do $$
declare
    v_parent text := case
        when to_regclass('rota.attempts') is null then 'job_executions' else 'attempts'
    end;
    v_partition text;
begin
    execute format('lock table only rota.%I in access exclusive mode', v_parent);

    for v_partition in
        select c.relname
        from pg_catalog.pg_inherits as i
        join pg_catalog.pg_class as c on c.oid = i.inhrelid
        where i.inhparent = ('rota.' || v_parent)::regclass and c.relreplident <> 'f'
    loop
        execute format('alter table rota.%I replica identity full', v_partition);
    end loop;
end;
$$;
