-- A look without a lock: one index probe a lane, no further than a caller means to sleep. What
-- fell due since the caller's statement began counts, for a claim in the same statement may have
-- come too early for it; what was due before was found, or cannot be had now (locked, say), and
-- would have the caller look again without end. A queue behind a wall has no jobs. A duration,
-- because callers wait by a clock of their own.
create or replace function rota.next_due_in(
    queues text[] default '{default}',
    within interval default '1 second'
)
    returns interval
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_began timestamptz := v_now - (clock_timestamp() - statement_timestamp());
    v_until timestamptz;
    v_next timestamptz;
begin
    if within is null or within not between interval '0' and interval '1 day' then
        raise exception 'within must be from 0 to 1 day, not %',
            coalesce(rota._span_text(within), 'null')
            using errcode = 'RTV01';
    end if;

    v_until := rota._later(v_now, within);

    perform from rota.queue_walls;

    if found then
        queues := rota._within_walls(queues);
    end if;

    select min(n.run_at) into v_next
    from rota.lanes as l
    cross join lateral (
        (
            select t.ready_at as run_at
            from rota.turns as t
            where l.keyed
                and t.queue = l.queue
                and t.priority = l.priority
                and t.ready_at > v_began
                and t.ready_at <= v_until
                and t.ready_at < 'infinity'
            order by t.ready_at
            limit 1
        )
        union all
        (
            select j.run_at
            from rota.live_jobs as j
            where j.queue = l.queue
                and rota._lane(j.key, j.priority) = l.priority
                and (j.counted and j.left_lane) is not true
                and j.run_at > v_began
                and j.run_at <= v_until
                and j.state = 'SCHEDULED'
            order by j.run_at, j.id
            limit 1
        )
    ) as n
    where l.queue = any(next_due_in.queues)
        and not exists (
            select from rota.queues as q where q.name = l.queue and q.paused_at is not null
        );

    return case when v_next > v_now then v_next - v_now
        when v_next <= v_now then interval '0'
    end;
end;
$$;

comment on function rota.next_due_in is
    'Say how long it is until the next job of these queues is due; null for none within that time.';
