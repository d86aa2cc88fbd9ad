-- For the login of the API, which becomes the principal then. It shows the SHA-256 of what a
-- request brought, never the token itself: arguments of calls may stand in logs of the server.
-- Unknown, expired, revoked, of a role that is gone or has too much power: the same null, after one
-- look by the index.
-- That it was used is noted at most once a minute, in this call's own transaction; a row that
-- somebody holds (revoke_token, or another such call) is passed by. On a standby nothing is noted.
create or replace function rota.authenticate_token(hash bytea)
    returns text
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_token rota.api_tokens;
begin
    select t.* into v_token
    from rota.api_tokens as t
    join pg_catalog.pg_roles as r on r.rolname = t.principal
    where t.hash = authenticate_token.hash
        and t.revoked_at is null
        and (t.expires_at is null or t.expires_at > v_now)
        and rota._bad_principal(t.principal) is null;

    if v_token.last_used_at is null or v_token.last_used_at < v_now - interval '1 minute' then
        if v_token.token_id is not null and not pg_is_in_recovery()
            and current_setting('transaction_read_only') = 'off'
        then
            perform
            from rota.api_tokens as t
            where t.token_id = v_token.token_id
            for no key update skip locked;

            if found then
                update rota.api_tokens as t
                set last_used_at = v_now
                where t.token_id = v_token.token_id;
            end if;
        end if;
    end if;

    return v_token.principal;
end;
$$;

comment on function rota.authenticate_token is
    'Return the role that a token stands for, by its SHA-256; null if it is not valid.';
