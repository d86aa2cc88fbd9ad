-- One row, locked by the update. From the commit on the token is refused, but for the seconds for
-- which an API remembers it. A token that is in other hands answers as one that there is not.
create or replace function rota.revoke_token(token_id bigint)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_before rota.api_tokens;
begin
    select t.* into v_before
    from rota.api_tokens as t
    where t.token_id = revoke_token.token_id and rota._may_manage(t.principal)
    for no key update;

    if not found then
        raise exception 'there is no token %', coalesce(token_id::text, 'null')
            using errcode = 'RTN05';
    end if;

    if v_before.revoked_at is not null then
        return;
    end if;

    update rota.api_tokens as t
    set revoked_at = rota._now()
    where t.token_id = v_before.token_id;

    perform rota._record_action(
        'revoke_token',
        token_id => v_before.token_id,
        details => jsonb_build_object('principal', v_before.principal)
    );
end;
$$;

comment on function rota.revoke_token is
    'Have a token refused from now on.';
