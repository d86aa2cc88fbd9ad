-- Called by a claim with the jobs that it is about to start, whose locks it holds: of the queue, of
-- the keys, or both, as limited says. So nobody else writes these rows, but maintain, which takes
-- the same locks. One job of a key that is known, as most are, goes a shorter way. A limit that
-- came since is not for this claim: it does not hold the lock.
create or replace function rota._note_starts(
    queue text,
    places tid[],
    at timestamptz,
    limited integer
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    if cardinality(places) = 1 and limited & 1 = 0 then
        update rota.flows as f
        set (cells, starts) = (
            select a.new_cells, a.new_starts
            from rota._add_starts(
                1, coalesce(f.starts_period, q.key_starts_period), f.cells, f.starts, at
            ) as a
        )
        from rota.live_jobs as j
        cross join rota.queues as q
        where j.ctid = places[1]
            and q.name = _note_starts.queue
            and f.queue = _note_starts.queue
            and f.key = j.key
            and coalesce(f.max_starts, q.key_max_starts) is not null;

        if found then
            return;
        end if;
    end if;

    with started as materialized (
        select s.key, s.number, l.period, f.key is not null as is_known
        from (
            select '' as key, cardinality(places) as number
            where limited & 1 > 0
            union all
            select j.key, count(*)::integer
            from rota.live_jobs as j
            where limited & 2 > 0 and j.ctid = any(places) and j.key is not null
            group by j.key
        ) as s
        join rota.queues as q on q.name = _note_starts.queue
        left join rota.flows as f on f.queue = _note_starts.queue and f.key = s.key
        cross join lateral (
            select case
                when s.key = '' then case when q.max_starts is not null then q.starts_period end
                when coalesce(f.max_starts, q.key_max_starts) is not null
                    then coalesce(f.starts_period, q.key_starts_period)
            end as period
        ) as l
        where l.period is not null
    ), known as (
        update rota.flows as f
        set (cells, starts) = (
            select a.new_cells, a.new_starts
            from rota._add_starts(s.number, s.period, f.cells, f.starts, at) as a
        )
        from started as s
        where s.is_known and f.queue = _note_starts.queue and f.key = s.key
    )
    insert into rota.flows (queue, key, cells, starts)
    select _note_starts.queue, s.key, array[at + s.period / 64], array[s.number]
    from started as s
    where not s.is_known;
end;
$$;

comment on function rota._note_starts is
    'Count starts into the windows of a queue and of its keys.';
