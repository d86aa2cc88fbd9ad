-- For rows that a claim has locked and whose stored size tells that they may pass its limit. Their
-- payloads are turned into text one by one, as they will be sent, until one passes the limit, which
-- is the last that is taken: so no payload is unpacked that is not claimed, and one job always is.
create or replace function rota._first_bytes(
    inout places tid[],
    max_bytes bigint,
    out bytes bigint
)
    returns record
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    bytes := 0;

    for v_place in 1..cardinality(places) loop
        select bytes + octet_length(j.payload::text) + coalesce(octet_length(j.headers::text), 0)
        into bytes
        from rota.live_jobs as j
        where j.ctid = places[v_place];

        if bytes >= max_bytes then
            places := places[:v_place];
            return;
        end if;
    end loop;
end;
$$;

comment on function rota._first_bytes is
    'Take the first of some jobs, until their payloads pass a limit, and say how much that is.';
