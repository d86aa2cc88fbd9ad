-- Rows without limits of their own whose window is over. Whoever starts jobs of the key holds its
-- lock, which we pass by if it is taken; what changed before we got it is looked at anew. Not at
-- REPEATABLE READ, where a period may have become longer since.
create or replace function rota._forget_flows(at timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    with idle as materialized (
        select f.queue, f.key, case when f.key = '' then -1 else rota._flow_number(f.key) end
            as number, p.period
        from rota.flows as f
        left join rota.queues as q on q.name = f.queue
        cross join lateral (
            select coalesce(
                case when f.key = '' then q.starts_period
                    else coalesce(f.starts_period, q.key_starts_period) end,
                interval '0'
            ) as period
        ) as p
        where current_setting('transaction_isolation') = 'read committed'
            and num_nonnulls(f.max_running, f.max_starts, f.starts_period) = 0
            and coalesce(f.cells[cardinality(f.cells)] + p.period < at, true)
        limit 10000
    ), held as materialized (
        select l.queue, l.number
        from rota.flow_locks as l
        where (l.queue, l.number) in (select i.queue, i.number from idle as i)
        for no key update skip locked
    )
    delete from rota.flows as f
    using idle as i, held as h
    where f.queue = i.queue and f.key = i.key
        and h.queue = i.queue and h.number = i.number
        and num_nonnulls(f.max_running, f.max_starts, f.starts_period) = 0
        and coalesce(f.cells[cardinality(f.cells)] + i.period < at, true);
end;
$$;

comment on function rota._forget_flows is
    'Remove what is known of keys that have no limits of their own and no starts that count.';
