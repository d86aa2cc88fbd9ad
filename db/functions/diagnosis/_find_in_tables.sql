-- By the server's own counts, which cost nothing to read. A crash makes those of rows begin anew,
-- and a standby has none; there the last vacuum's or analyze's holds. At thousands of jobs a second
-- 50,000 dead rows are a few seconds', so they tell something only where autovacuum stays away.
create or replace function rota._find_in_tables(at timestamptz)
    returns setof rota.finding
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with hot as materialized (
        select
            s.relname,
            greatest(s.n_live_tup, k.reltuples::bigint) as n_live_tup,
            s.n_dead_tup,
            greatest(s.last_autovacuum, s.last_vacuum) as vacuumed_at,
            pg_relation_size(s.relid) as bytes,
            pg_indexes_size(s.relid) as index_bytes,
            coalesce(k.reloptions, '{}') as options
        from pg_catalog.pg_stat_all_tables as s
        join pg_catalog.pg_class as k on k.oid = s.relid
        where s.schemaname = 'rota'
            and s.relname in (
                'live_jobs', 'turns', 'flows', 'flow_locks', 'workers', 'lanes', 'lane_cursors',
                'schedules'
            )
    ), history as materialized (
        select
            p.parent,
            u.unit,
            rota._missing_weeks(p.parent, u.unit, at, null) as missing,
            date_trunc(u.unit, at, 'UTC') as now
        from (values ('finished_jobs'), ('attempts')) as p(parent)
        cross join lateral rota._history_unit(p.parent) as u(unit)
    )
    select
        case when h.n_dead_tup > 10 * greatest(h.n_live_tup, 100000)
            then 'critical' else 'warning'
        end as severity,
        'dead rows' as "check",
        format(
            '%s has %s dead rows beside %s live ones, and takes %s; it was last vacuumed %s.',
            h.relname, h.n_dead_tup, h.n_live_tup, pg_size_pretty(h.bytes),
            coalesce(rota._rough_span(at - h.vacuumed_at) || ' ago', 'never')
        ) as finding,
        format(
            'End what keeps an old snapshot, if anything does; then: vacuum rota.%I', h.relname
        ) as remedy,
        to_jsonb(h) - 'options' as evidence
    from hot as h
    where h.n_dead_tup > greatest(
        case
            when h.vacuumed_at < at - 3 * current_setting('autovacuum_naptime')::interval then 50000
            else 1000000
        end,
        0.2 * h.n_live_tup
    )

    union all
    select
        'note',
        'bloat',
        format(
            '%s takes %s, and its indexes %s, for about %s rows: who reads all of it reads that.',
            h.relname, pg_size_pretty(h.bytes), pg_size_pretty(h.index_bytes), h.n_live_tup
        ),
        format(
            'Nothing, if as many jobs come again; else, in a quiet minute, for it locks the table:'
            ' vacuum (full) rota.%I',
            h.relname
        ),
        to_jsonb(h) - 'options'
    from hot as h
    where greatest(h.bytes, h.index_bytes)
        > greatest(64 * 2 ^ 20, 20000.0 * (h.n_live_tup + h.n_dead_tup))

    union all
    select
        'critical',
        'autovacuum',
        'Autovacuum is off on this server: rows of finished jobs are not removed.',
        'alter system set autovacuum = on, track_counts = on, then: select pg_reload_conf()',
        null
    where 'off' in (current_setting('autovacuum'), current_setting('track_counts'))

    union all
    select
        'critical',
        'autovacuum',
        format('Autovacuum is off for %s: rows of finished jobs are not removed.', h.relname),
        format('alter table rota.%I reset (autovacuum_enabled)', h.relname),
        null
    from hot as h
    where h.options && '{autovacuum_enabled=false, autovacuum_enabled=off}'

    union all
    select
        'warning',
        'storage',
        'live_jobs has lost its fillfactor: claims have to write its indexes, too.',
        'alter table rota.live_jobs set (fillfactor = 40)',
        jsonb_build_object('options', h.options)
    from hot as h
    where h.relname = 'live_jobs' and not h.options && '{fillfactor=40}'

    union all
    select
        case when h.now = any(h.missing) then 'critical' else 'warning' end,
        'partitions',
        format(
            '%s lacks %s of its %ss%s.',
            h.parent, cardinality(h.missing), h.unit,
            case when h.now = any(h.missing) then ', this one among them' end
        ),
        'select maintain(), which workers call every hour; it gives way to locks on the table.',
        jsonb_build_object('table', h.parent, 'missing', h.missing)
    from history as h
    where h.now = any(h.missing)
        or exists (
            select
            from unnest(h.missing) as m(start)
            where m.start < h.now + 3 * ('1 ' || h.unit)::interval
        )

    union all
    select
        'warning',
        'upkeep',
        format('maintain was last done %s ago.', rota._rough_span(at - c.ran_at)),
        'Workers call it every hour: see their logs, or: select maintain()',
        jsonb_build_object('ran_at', c.ran_at)
    from rota.chores as c
    where c.chore = 'maintain' and c.ran_at < at - interval '1 day'

    union all
    select
        'critical',
        'ids',
        format('The sequence of ids is behind job %s: ids would be given twice.', i.id),
        'select maintain()',
        jsonb_build_object('id', i.id)
    from rota._id_ahead() as i(id)
    where i.id is not null
$$;

comment on function rota._find_in_tables is
    'Find tables that swell, and history without a place.';
