-- Reads the length that is stored, so it does not fetch what lies outside the row. That is what the
-- text is long in JSON, more or less; no compression of PostgreSQL's makes more than 255 out of
-- one.
create or replace function rota._most_bytes(payload jsonb)
    returns integer
    language sql
    stable
as $$
    select case
        when pg_column_compression(payload) is null then pg_column_size(payload)
        else least(pg_column_size(payload), 8000000) * 255
    end
$$;

comment on function rota._most_bytes is
    'Say how many bytes a document may have that is stored in a row, without reading it.';
