-- Null for a sequence that counts down or begins anew at its end, of which nothing is promised.
-- Numeric, for the last value of all has none that follows it.
create or replace function rota._next_job_id(beyond bigint default null)
    returns numeric
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select n.value + s.seqincrement * case
        when beyond >= n.value then 1 + div(beyond - n.value, s.seqincrement)
        else 0
    end
    from pg_sequence as s
    cross join rota.job_ids as i
    cross join lateral (
        select i.last_value::numeric + case when i.is_called then s.seqincrement else 0 end
    ) as n(value)
    where s.seqrelid = 'rota.job_ids'::regclass and s.seqincrement > 0 and not s.seqcycle
$$;

comment on function rota._next_job_id is
    'Say which id the sequence of jobs gives next, or the first that it gives beyond another.';
