drop function if exists rota._forget_requests(timestamptz);

-- A portion, the oldest first. Rows that another session holds are passed by.
create or replace function rota._forget_requests(at timestamptz, at_most integer)
    returns bigint
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_count bigint;
begin
    delete from rota.requests as r
    where r.ctid = any(array(
        select o.ctid
        from rota.requests as o
        where o.created_at < rota._later(at, -interval '1 day')
        order by o.created_at
        limit at_most
        for update skip locked
    ));
    get diagnostics v_count = row_count;

    return v_count;
end;
$$;

comment on function rota._forget_requests is
    'Forget answers of requests that are older than a day, and return how many.';
