-- What went down with a job names it (ended_by), and so on downwards.
create or replace function rota._family(job_ids bigint[])
    returns bigint[]
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_family bigint[];
begin
    with recursive family as (
        select s.id
        from unnest(job_ids) as s(id)
        union
        select w.job_id
        from family as f
        cross join lateral (
            select n.job_id
            from rota.workflow_jobs as n
            where n.ended_by = f.id
            offset 0 -- one by one, as in _reached
        ) as w
    )
    select array_agg(f.id) into v_family
    from family as f;

    return v_family;
end;
$$;

comment on function rota._family is
    'Name these jobs and those that were cancelled because of them.';
