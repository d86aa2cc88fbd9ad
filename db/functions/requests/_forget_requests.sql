-- A part at a time, and for a second at most: what is left waits for the next call. Rows that
-- another session holds are passed by.
create or replace function rota._forget_requests(at timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_began timestamptz := clock_timestamp();
    v_count bigint;
begin
    loop
        delete from rota.requests as r
        where r.ctid = any(array(
            select o.ctid
            from rota.requests as o
            where o.created_at < rota._later(at, -interval '1 day')
            order by o.created_at
            limit 5000
            for update skip locked
        ));
        get diagnostics v_count = row_count;
        exit when v_count < 5000 or clock_timestamp() > v_began + interval '1 second';
    end loop;
end;
$$;

comment on function rota._forget_requests is
    'Forget the answers of requests that are older than a day.';
