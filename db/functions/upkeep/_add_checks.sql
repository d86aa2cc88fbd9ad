-- Enforced for every row that comes, as they are on the parent, but not validated: what PostgreSQL
-- knows to be true of a partition it reads anew whenever a look is planned, which for 90 partitions
-- takes as long as all else. The tables that are given them are new or copies: they hold nothing
-- that was not checked.
create or replace function rota._add_checks(parent text, part text)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_check record;
begin
    for v_check in
        select c.oid, c.conname as name
        from pg_constraint as c
        where c.conrelid = format('rota.%I', parent)::regclass and c.contype = 'c'
        order by c.conname
    loop
        execute format(
            'alter table rota.%I add constraint %I %s',
            part, v_check.name, pg_get_constraintdef(v_check.oid)
        );
    end loop;
end;
$$;

comment on function rota._add_checks is
    'Give a table that is to be a partition the checks of its parent, not validated as they are.';
