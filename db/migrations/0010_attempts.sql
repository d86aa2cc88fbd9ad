-- depends: 0007_chores

-- The table of attempts that ended holds their tokens, by which a repeated finish is known. A token
-- is nobody's business but its holder's: all jobs of one claim share one. So the table is renamed,
-- and what people read is a view without tokens (db/views.sql). Until the functions are replaced,
-- those of before read and write through the view of the old name, which has all columns at first.
do $$
declare
    v_users text;
    v_right record;
begin
    if to_regclass('rota.attempts') is not null then
        return;
    end if;

    select string_agg(distinct u.name, ', ') into v_users
    from (
        select coalesce(r.ev_class::regclass::text, pg_describe_object(classid, objid, 0)) as name
        from pg_catalog.pg_depend as d
        left join pg_catalog.pg_rewrite as r
            on d.classid = 'pg_catalog.pg_rewrite'::regclass and r.oid = d.objid
        left join pg_catalog.pg_class as c on c.oid = r.ev_class
        where d.refclassid = 'pg_catalog.pg_class'::regclass
            and d.refobjid = 'rota.job_executions'::regclass
            and (r.oid is not null or d.classid = 'pg_catalog.pg_proc'::regclass)
            and c.relnamespace is distinct from 'rota'::regnamespace
    ) as u;

    if v_users is not null then
        raise exception 'rota.job_executions becomes a view without tokens, but % depends on it',
            v_users
            using errcode = 'RTC05',
                  hint = 'Drop what depends on it, deploy again, and create it anew.';
    end if;

    alter table rota.job_executions rename to attempts;
    alter index rota.job_executions_by_job rename to attempts_by_job;

    create view rota.job_executions as select * from rota.attempts;

    -- Whoever could read the one can read the other; the table is nobody's any more.
    for v_right in
        select distinct
            case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee,
            '(' || quote_ident(r.column_name) || ')' as columns,
            a.privilege_type = 'SELECT' as may_read
        from (
            select null, c.relacl, c.relowner
            from pg_catalog.pg_class as c
            where c.oid = 'rota.attempts'::regclass
            union all
            select t.attname, t.attacl, c.relowner
            from pg_catalog.pg_attribute as t
            join pg_catalog.pg_class as c on c.oid = t.attrelid
            where t.attrelid = 'rota.attempts'::regclass
        ) as r(column_name, acl, owner)
        cross join lateral aclexplode(r.acl) as a
        where a.grantee <> r.owner
    loop
        if v_right.may_read then
            execute format(
                'grant select %s on rota.job_executions to %s', v_right.columns, v_right.grantee
            );
        end if;
        execute format('revoke all on rota.attempts from %s', v_right.grantee);
    end loop;
end;
$$;
