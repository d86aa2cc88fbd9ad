-- A token is 256 random bits. The server gives strong random bytes only as UUIDs, 122 bits each
-- (gen_random_uuid reads pg_strong_random), so three of them are hashed into one. A random token
-- needs no slow hash, and no salt: what is stored is its SHA-256, by which it is found, and from
-- which nobody can come back to it. It is in the answer, and never again anywhere.
-- Who makes a token has all that it gives: the caller must be able to be the principal. The roles
-- are looked at as they are now; authenticate_token looks again.
-- One new row, locked by nobody else. A hash that two sessions bring at once is refused to the one
-- that comes second.
create or replace function rota.create_token(
    principal text,
    expires_at timestamptz default null,
    note text default null,
    hash bytea default null
)
    returns rota.created_token
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_complaint text;
    v_token text;
    v_id bigint;
begin
    if not exists (select from pg_catalog.pg_roles as r where r.rolname = principal) then
        raise exception 'there is no role %', left(coalesce(principal, 'null'), 100)
            using errcode = 'RTN04',
                  hint = 'A principal is a role: create role <name> nologin in role rota_producer';
    end if;

    if not pg_has_role(rota._caller(), principal::name, 'MEMBER') then
        raise exception '% is not a member of role %, so it may not make tokens for it',
            rota._caller(), principal
            using errcode = 'RTP01',
                  hint = format('Who may: %s', rota._grant_to_act_as(principal, rota._caller()));
    end if;

    if not rota._may_manage(principal) then
        raise exception 'role % is not behind the walls of %, which may not make tokens for it',
            principal, rota._caller()
            using errcode = 'RTP01',
                  hint = 'Who has no walls may; or make a role that is a member of this one.';
    end if;

    v_complaint := rota._bad_principal(principal);

    if v_complaint is not null then
        raise exception '%', v_complaint
            using errcode = 'RTP01',
                  hint = 'Make a role of its own for the token, and grant it what it needs.';
    end if;

    v_complaint := rota._missing_grant(principal);

    if v_complaint is not null then
        raise exception 'the login of the API may not act as role %', principal
            using errcode = 'RTC06',
                  hint = format('Run: %s', v_complaint);
    end if;

    v_complaint := case
        when not isfinite(expires_at) or expires_at <= v_now
            then 'expires_at must be in the future'
        when length(note) > 200 or note ~ '[[:cntrl:]]'
            then 'note must have at most 200 characters, and no control characters'
        when octet_length(hash) <> 32
            then 'hash must be the SHA-256 of a token'
    end;

    if v_complaint is not null then
        raise exception '%', v_complaint
            using errcode = 'RTV01';
    end if;

    if hash is null then
        v_token := 'rota_' || translate(
            encode(
                sha256(
                    uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
                        || uuid_send(gen_random_uuid())
                ),
                'base64'
            ),
            '+/=', '-_'
        );
    end if;

    insert into rota.api_tokens as t (
        principal, hash, prefix, note, created_at, created_by, expires_at
    )
    values (
        principal,
        coalesce(create_token.hash, sha256(convert_to(v_token, 'UTF8'))),
        left(v_token, 12),
        note,
        v_now,
        rota._caller(),
        expires_at
    )
    on conflict do nothing
    returning t.token_id into v_id;

    if v_id is null then
        raise exception 'there is a token with this hash already'
            using errcode = 'RTC03';
    end if;

    perform rota._record_action(
        'create_token',
        token_id => v_id,
        details => jsonb_build_object(
            'principal', principal, 'expires_at', expires_at, 'note', note
        )
    );

    return row(v_id, v_token)::rota.created_token;
end;
$$;

comment on function rota.create_token is
    'Make a token for requests that act as this role, and show it this once.';
