-- A look without a lock, before the locks. What is added below one of them meanwhile is found by
-- _settle, for who adds it holds the row, in live_jobs or job_waits, of the one that it is added
-- to.
create or replace function rota._reached(job_ids bigint[], failed bigint[])
    returns bigint[]
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_reached bigint[];
begin
    with recursive reached as (
        select
            d.child_id,
            d.if_parent_fails = 'cancel' and d.parent_id in (
                select f.id from unnest(failed) as f(id)
            ) as doomed
        from rota.job_dependencies as d
        where d.parent_id = any(job_ids)
        union
        select d.child_id, d.if_parent_fails = 'cancel'
        from reached as r
        cross join lateral (
            select e.child_id, e.if_parent_fails
            from rota.job_dependencies as e
            where e.parent_id = r.child_id
            offset 0 -- edge by edge, or a plan of an empty table goes through all of them
        ) as d
        where r.doomed
    )
    select array_agg(distinct r.child_id) into v_reached
    from reached as r;

    return coalesce(v_reached, '{}');
end;
$$;

comment on function rota._reached is
    'Name the waiting jobs that change when these jobs end, some of them failed.';
