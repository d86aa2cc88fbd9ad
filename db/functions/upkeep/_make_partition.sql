drop function if exists rota._make_partition(text, timestamptz);

-- For _keep_weeks, which has locked the parent and its default partition against everybody.
-- The table is filled from the default partition before it is attached, since attaching fails while
-- the default holds rows of that time. Of the time only what no other partition holds: where weeks
-- become days, and bounds were once read in the session's time zone, so that a week began or ended
-- some hours late. The table lies where the default partition does, whatever the session's
-- default_tablespace is. PostgreSQL has the index by time describe the first pages of a table while
-- they are empty, and each job that ends would then have to correct that. Without it they are
-- described once, when they are full, as all others are.
create or replace function rota._make_partition(
    parent text,
    at timestamptz,
    unit text default 'week'
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
    set default_tablespace = ''
    set default_table_access_method = 'heap'
as $$
declare
    v_from timestamptz := date_trunc(unit, at, 'UTC');
    v_to timestamptz := rota._later(v_from, ('1 ' || unit)::interval);
    v_name text := rota._partition_name(parent, unit, v_from);
    v_index regclass;
begin
    select o.starts_at, o.ends_at into v_from, v_to
    from rota._open_range(parent, v_from, v_to) as o;

    if v_from >= v_to or to_regclass(format('rota.%I', v_name)) is not null then
        return;
    end if;

    perform
        set_config('default_tablespace', coalesce(t.spcname, ''), true),
        set_config('default_table_access_method', m.amname, true)
    from pg_catalog.pg_class as c
    join pg_catalog.pg_am as m on m.oid = c.relam
    left join pg_catalog.pg_tablespace as t on t.oid = c.reltablespace
    where c.oid = ('rota.' || quote_ident(parent || '_default'))::regclass;

    execute format('create table rota.%I (like rota.%I including defaults)', v_name, parent);
    perform rota._add_checks(parent, v_name);
    execute format(
        'with moved as (
            delete from rota.%I where finished_at >= %L and finished_at < %L returning *
        )
        insert into rota.%I select * from moved',
        parent || '_default', rota._utc_text(v_from), rota._utc_text(v_to), v_name
    );
    if parent <> 'finished_jobs' then
        execute format('alter table rota.%I replica identity full', v_name);  -- they have no key
    end if;

    execute format(
        'alter table rota.%I attach partition rota.%I for values from (%L) to (%L)',
        parent, v_name, rota._utc_text(v_from), rota._utc_text(v_to)
    );

    select i.indexrelid into v_index
    from pg_catalog.pg_index as i
    join pg_catalog.pg_class as c on c.oid = i.indexrelid
    join pg_catalog.pg_am as m on m.oid = c.relam
    where i.indrelid = ('rota.' || quote_ident(v_name))::regclass and m.amname = 'brin';

    perform brin_desummarize_range(v_index, 0);
end;
$$;

comment on function rota._make_partition is
    'Give a partitioned table the hour, day or week that holds this time.';
