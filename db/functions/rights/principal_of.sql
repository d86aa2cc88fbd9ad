-- In the message that begins a request's transaction, whose role it sets: so what comes after the
-- commit of a revoke_token, or of the first token, is refused, however lately the API had looked.
-- One look by an index, and nothing locked. Whether the role has come to too much power since then
-- is a matter of authenticate_token.
create or replace function rota.principal_of(hash bytea)
    returns text
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_principal text;
begin
    if hash is null and not rota.needs_token() then
        return 'none';
    end if;

    select t.principal into v_principal
    from rota.api_tokens as t
    where t.hash = principal_of.hash
        and t.revoked_at is null
        and (t.expires_at is null or t.expires_at > rota._now());

    if not found then
        raise exception 'this needs a valid token'
            using errcode = 'RTP02';
    end if;

    return v_principal;
end;
$$;

comment on function rota.principal_of is
    'Return the role of a valid token by its SHA-256; "none" for none, while none is needed.';
