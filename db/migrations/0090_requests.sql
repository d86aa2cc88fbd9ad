-- depends: 0086_unique_key_of_queue

-- What a request with an Idempotency-Key was answered, for a day, so that its repeat gets the same.
-- The row is the first thing that its transaction writes: a repeat that comes meanwhile waits at
-- the primary key. While status is null that transaction has not ended, so nobody else sees it.
create table if not exists rota.requests (
    caller text not null,
    key text not null,
    fingerprint text not null,
    status integer,
    answer text,
    location text,
    created_at timestamptz not null,
    primary key (caller, key)
);

create index if not exists requests_by_age
    on rota.requests (created_at);

do $$
begin
    if to_regtype('rota.past_request') is null then
        create type rota.past_request as (
            status integer,
            answer text,
            location text
        );
    end if;
end;
$$;
