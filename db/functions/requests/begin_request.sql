-- The first statement of the transaction that does what a request asks for. The row is its lock: a
-- repeat that comes before that transaction has ended waits at the primary key, sees the row when
-- it has committed, and goes on itself when it was rolled back. Nothing else is locked before it.
--
-- A key is its caller's own: that another has used it can be neither seen nor told. What a caller
-- may not do any more it could still be told about here, which is nothing but what it was told.
--
-- One new request in a hundred forgets up to two hundred old ones, so that the table stops growing
-- whatever maintain, which has a second an hour, is left with. Not each request two: all would walk
-- over what was forgotten while an open transaction keeps it in the index. What it forgets it holds
-- until its transaction ends, after its own row; whoever begins a request holds nothing yet.
create or replace function rota.begin_request(key text, fingerprint text)
    returns rota.past_request
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_caller text := rota._caller();
    v_now timestamptz := rota._now();
    v_kept_since timestamptz := rota._later(v_now, -interval '1 day');
    v_past rota.requests;
begin
    if key is null or length(key) not between 1 and 200 then
        raise exception 'key must have 1 to 200 characters'
            using errcode = 'RTV01';
    end if;

    if fingerprint is null or length(fingerprint) not between 1 and 200 then
        raise exception 'fingerprint must have 1 to 200 characters'
            using errcode = 'RTV01';
    end if;

    loop
        select * into v_past
        from rota.requests as r
        where r.caller = v_caller
            and r.key = begin_request.key
            and r.created_at >= v_kept_since;

        if found then
            if v_past.fingerprint <> fingerprint then
                raise exception 'another request had this Idempotency-Key'
                    using errcode = 'RTC03',
                          hint = 'A key stands for one request: its method, path and body.';
            end if;

            return row(v_past.status, v_past.answer, v_past.location)::rota.past_request;
        end if;

        insert into rota.requests as r (caller, key, fingerprint, created_at)
        values (v_caller, begin_request.key, begin_request.fingerprint, v_now)
        on conflict on constraint requests_pkey do update
        set fingerprint = excluded.fingerprint,
            status = null,
            answer = null,
            location = null,
            created_at = excluded.created_at
        where r.created_at < v_kept_since;

        exit when found;
    end loop;

    if random() < 0.01 then
        perform rota._forget_requests(v_now, 200);
    end if;

    return null;
end;
$$;

comment on function rota.begin_request is
    'Say what this caller''s request of that key was answered within a day; null for a new one.';
