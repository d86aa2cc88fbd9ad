-- A portion, the oldest first. What another session holds is passed by. The rows are locked by a
-- statement of their own, and looked at in a newer snapshot: a key that was taken just then has a
-- job that the first one cannot see.
create or replace function rota._forget_unique_keys(at timestamptz, at_most integer)
    returns bigint
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_places tid[];
    v_count bigint;
begin
    v_places := array(
        select u.ctid
        from rota.unique_keys as u
        where u.until <= at
            and (select j.id from rota.live_jobs as j where j.id = u.job_id) is null
        order by u.until
        limit at_most
        for update skip locked
    );

    delete from rota.unique_keys as u
    where u.ctid = any(v_places)
        and u.until <= at
        and not exists (select from rota.live_jobs as j where j.id = u.job_id);
    get diagnostics v_count = row_count;

    return v_count;
end;
$$;

comment on function rota._forget_unique_keys is
    'Forget unique keys whose time is over and whose job has ended, and return how many.';
