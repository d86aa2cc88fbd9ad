-- Whether there are walls is looked at under the lock of who changes them (wall, unwall), or of a
-- deploy. Who reads a view holds it until his transaction ends, and whoever reads next waits behind
-- us: so we wait for a moment only, which is shorter than it takes to notice a deadlock.
create or replace function rota._guard_views()
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '900ms'
as $$
declare
    v_kind text := '_all_';
    v_other text := '_walled_';
    v_name text;
begin
    if exists (select from rota.queue_walls) then
        v_kind := '_walled_';
        v_other := '_all_';
    end if;

    for v_name in
        select c.relname
        from pg_catalog.pg_class as c
        where c.relnamespace = 'rota'::regnamespace
            and c.relname in ('jobs', 'job_executions', 'executions')
            and exists (
                select
                from pg_catalog.pg_rewrite as r
                join pg_catalog.pg_depend as d
                    on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.oid
                where r.ev_class = c.oid
                    and d.refclassid = 'pg_catalog.pg_class'::regclass
                    and d.refobjid = to_regclass('rota.' || v_other || c.relname)
            )
        order by c.relname desc
    loop
        execute format(
            'create or replace view rota.%I as select * from rota.%I', v_name, v_kind || v_name
        );
    end loop;
end;
$$;

comment on function rota._guard_views is
    'Have the views of all jobs and executions ask for walls, or not, as there are any.';
