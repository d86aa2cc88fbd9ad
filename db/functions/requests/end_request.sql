-- In the transaction of begin_request, which holds the row; once an answer is there it stays.
create or replace function rota.end_request(
    key text,
    status integer,
    answer text,
    location text default null
)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    update rota.requests as r
    set status = end_request.status,
        answer = end_request.answer,
        location = end_request.location
    where r.caller = rota._caller()
        and r.key = end_request.key
        and r.status is null;

    if not found then
        raise exception 'no request of this key has begun'
            using errcode = 'RTC01';
    end if;
end;
$$;

comment on function rota.end_request is
    'Keep what a request is answered, for its repeats.';
