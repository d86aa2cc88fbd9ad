-- 2^30 ids: three hours of a hundred thousand jobs a second, of which nobody else knew. Ids stay
-- below 2^53, which JavaScript can hold, for eight million jumps. A new database has given none,
-- and a sequence that would end is left as it is. A shard's increment is kept.
create or replace function rota._jump_ids()
    returns bigint
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    select setval('rota.job_ids', n.value::bigint)
    from pg_catalog.pg_sequence as s
    cross join lateral (
        select pg_sequence_last_value(s.seqrelid)::numeric + 1073741824 * s.seqincrement
    ) as n(value)
    where s.seqrelid = 'rota.job_ids'::regclass
        and s.seqincrement > 0
        and not s.seqcycle
        and n.value < s.seqmax
$$;

comment on function rota._jump_ids is
    'Have the sequence of ids go on far beyond what was given out, as far as is known here.';
