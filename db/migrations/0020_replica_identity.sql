-- depends: 0011_kept_since

-- A table in a publication (one for all tables takes in ours) can be updated and deleted from only
-- if its rows can be told apart. Copies of a lane cannot, and executions have no key. No price is
-- paid but by rows of these that are deleted while they are published.
alter table rota.lanes replica identity full;

do $$
declare
    v_partition text;
begin
    for v_partition in
        select c.relname
        from pg_catalog.pg_inherits as i
        join pg_catalog.pg_class as c on c.oid = i.inhrelid
        join pg_catalog.pg_class as p on p.oid = i.inhparent
        where p.relnamespace = 'rota'::regnamespace
            and p.relname in ('job_executions', 'attempts')
            and p.relkind = 'p'
            and c.relreplident <> 'f'
    loop
        execute format('alter table rota.%I replica identity full', v_partition);
    end loop;
end;
$$;
