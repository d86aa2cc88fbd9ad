-- The highest of n hashes, so that one more database takes keys from all others, and none of those
-- changes a key with another. The same in Python: rota.shard_of. What it returns never changes, or
-- keys would be looked for where they are not.
create or replace function rota.shard_of(key text, n integer)
    returns integer
    language plpgsql
    immutable
    parallel safe
    set search_path = pg_catalog, pg_temp
as $$
begin
    if key is null then
        raise exception 'key is required'
            using errcode = 'RTV01';
    end if;

    if n is null or n not between 1 and 1024 then
        raise exception 'n must be from 1 to 1024, not %', coalesce(n::text, 'null')
            using errcode = 'RTV01';
    end if;

    return (
        select s.shard
        from generate_series(0, n - 1) as s(shard)
        order by sha256(convert_to(s.shard || ':' || key, 'UTF8')) desc
        limit 1
    );
end;
$$;

comment on function rota.shard_of is
    'Say in which of n databases, from 0 on, jobs of a key are; rota.shard_of in Python agrees.';
