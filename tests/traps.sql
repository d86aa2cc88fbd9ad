-- Plants in the schema "{schema}" what a caller hopes that a function of others will run: domains,
-- functions, operators and relations with the names of PostgreSQL's own and of Rota's. Each does
-- what the real one does, but tells by a warning when it is run by somebody who is not the caller.
-- A cast cannot be planted: for that one has to own a type that Rota uses.

create function {schema}.trap(what pg_catalog.text) returns pg_catalog.bool
    language plpgsql volatile
as $trap$
begin
    if current_user::pg_catalog.text operator(pg_catalog.<>)
        pg_catalog.current_setting('rota_test.caller')
    then
        raise warning 'TRAP: % ran as %', what, current_user;
    end if;

    return true;
end;
$trap$;

do $plant$
declare
    v_schema text := '{schema}';
    v_words text[];
    v_thing record;
    v_planted jsonb := '{{}}';
    v_is_temp boolean := '{schema}' = 'pg_temp';
begin
    v_words := array(
        select distinct w.word[1]
        from pg_proc as p
        cross join lateral regexp_matches(p.prosrc, '[a-z_0-9]+', 'g') as w(word)
        where p.pronamespace = 'rota'::regnamespace
    );

    for v_thing in
        select
            'type' as kind,
            t.typname as name,
            format(
                'create domain %1$s.%2$I as pg_catalog.%2$I check (%1$s.trap(%3$L))',
                v_schema, t.typname, 'type ' || t.typname
            ) as statement
        from pg_type as t
        where t.typnamespace = 'pg_catalog'::regnamespace and t.typtype = 'b' and t.typelem = 0
        union all
        select
            'function',
            p.proname,
            format(
                'create function %1$s.%2$I(%3$s) returns %4$s language plpgsql volatile as $f$
                begin
                    perform %1$s.trap(%5$L);
                    %6$s pg_catalog.%2$I(%7$s);
                end $f$',
                v_schema,
                p.proname,
                oidvectortypes(p.proargtypes),
                case when p.proretset then 'setof ' else '' end || format_type(p.prorettype, null),
                'function ' || p.proname,
                case when p.proretset then 'return query select * from' else 'return' end,
                (
                    select string_agg(
                        case when g = p.pronargs and p.provariadic <> 0 then 'variadic ' else '' end
                            || '$' || g,
                        ', '
                    )
                    from generate_series(1, p.pronargs) as g
                )
            )
        from pg_proc as p
        where p.pronamespace = 'pg_catalog'::regnamespace
            and p.prokind = 'f'
            and p.proname = any(v_words)
            and not p.proname in ('trap', 'current_setting')
            and p.proallargtypes is null
        union all
        select
            'operator',
            o.oprname,
            format(
                'create function %1$s.%2$I(%3$s, %4$s) returns %5$s language plpgsql volatile as $f$
                begin
                    perform %1$s.trap(%6$L);
                    return $1 operator(pg_catalog.%7$s) $2;
                end $f$;
                create operator %1$s.%7$s (
                    leftarg = %3$s, rightarg = %4$s, function = %1$s.%2$I
                )',
                v_schema,
                'trap_' || o.oid,
                o.oprleft::regtype,
                o.oprright::regtype,
                o.oprresult::regtype,
                'operator ' || o.oprname,
                o.oprname
            )
        from pg_operator as o
        where o.oprnamespace = 'pg_catalog'::regnamespace
            and o.oprkind = 'b'
            and (o.oprleft::regtype::text, o.oprright::regtype::text) in (
                select a.name, b.name
                from unnest(array[
                    'text', 'integer', 'bigint', 'timestamp with time zone', 'jsonb', 'uuid',
                    'timestamp without time zone', 'date', 'interval', 'boolean', 'numeric', 'oid',
                    'double precision', 'tid', 'xid8', 'name', 'anyarray', 'record', '"char"'
                ]) as a(name)
                cross join unnest(array[
                    'text', 'integer', 'bigint', 'timestamp with time zone', 'jsonb', 'uuid',
                    'timestamp without time zone', 'date', 'interval', 'boolean', 'numeric', 'oid',
                    'double precision', 'tid', 'xid8', 'name', 'anyarray', 'record', 'text[]'
                ]) as b(name)
            )
        union all
        select
            'relation',
            c.relname,
            format(
                'create view %1$s.%2$I as select * from %3$s.%2$I where %1$s.trap(%4$L)',
                v_schema, c.relname, c.relnamespace::regnamespace, 'relation ' || c.relname
            )
        from pg_class as c
        where c.relnamespace in ('pg_catalog'::regnamespace, 'rota'::regnamespace)
            and c.relkind in ('r', 'p', 'v')
            and c.relname = any(v_words)
            and not c.relispartition
    loop
        begin
            execute v_thing.statement;
            v_planted := jsonb_set(
                v_planted,
                array[v_thing.kind],
                to_jsonb(coalesce((v_planted ->> v_thing.kind)::integer, 0) + 1)
            );
        exception
            when others then
                null;  -- pseudo-types, and what PostgreSQL keeps for itself
        end;
    end loop;

    raise notice 'PLANTED: %', v_planted;
end;
$plant$;
