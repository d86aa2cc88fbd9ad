-- Reads one row at most. Tokens that were revoked count: whoever has made one does not want the API
-- to be open to everybody again.
create or replace function rota.needs_token()
    returns boolean
    language sql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
    select exists (select from rota.api_tokens)
$$;

comment on function rota.needs_token is
    'Tell whether requests to the API need a token: from the first one on that was made.';
