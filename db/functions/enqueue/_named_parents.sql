create or replace function rota._named_parents(items rota.workflow_item[])
    returns bigint[]
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select array(
        select distinct e.parent::bigint
        from unnest(items) as i
        cross join lateral jsonb_array_elements(
            case when jsonb_typeof(i.depends_on) = 'array' then i.depends_on else '[]' end
        ) as e(parent)
        where jsonb_typeof(e.parent) = 'number'
        order by 1
    )
$$;

comment on function rota._named_parents is
    'Name the jobs outside a workflow on which its jobs depend.';
