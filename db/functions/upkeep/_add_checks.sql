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
    v_checks text := (
        select string_agg(
            format('add constraint %I %s', c.conname, pg_get_constraintdef(c.oid)),
            ', ' order by c.conname
        )
        from pg_constraint as c
        where c.conrelid = format('rota.%I', parent)::regclass and c.contype = 'c'
    );
begin
    if v_checks is not null then
        execute format('alter table rota.%I %s', part, v_checks);
    end if;
end;
$$;

comment on function rota._add_checks is
    'Give a table that is to be a partition the checks of its parent, not validated as they are.';
