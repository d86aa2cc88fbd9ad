-- depends: 0191_entries_once
-- transactional: false

-- The checks of history are enforced as before, but stand as not validated, on the parents and on
-- all partitions: the planner reads what is validated anew, of each partition, for each look by id.
-- Nothing is read through. One at a time: nobody who holds one parent and waits for the other is
-- waited for.
do $$
declare
    v_check record;
begin
    for v_check in
        select
            c.conrelid::regclass as parent,
            c.conname as name,
            replace(pg_get_constraintdef(c.oid), ' NOT VALID', '') as text
        from pg_catalog.pg_constraint as c
        where c.conrelid in ('rota.finished_jobs'::regclass, 'rota.attempts'::regclass)
            and c.contype = 'c'
            and exists (
                select
                from pg_catalog.pg_constraint as o
                where o.connamespace = c.connamespace
                    and o.conname = c.conname
                    and o.convalidated
            )
    loop
        execute format(
            'alter table %1$s drop constraint %2$I, add constraint %2$I %3$s not valid',
            v_check.parent, v_check.name, v_check.text
        );
        commit;
    end loop;
end;
$$;
