create or replace function rota._ones(bits bigint)
    returns bigint
    language sql
    immutable
as $$
    select bit_count(bits::bit(64))
$$;

comment on function rota._ones is
    'Count the bits that are set.';
