create or replace function rota._kept_spans()
    returns setof rota.kept_span
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select null, true, coalesce(s.keep_completed, s.retention)
    from rota.settings as s
    union all
    select null, false, coalesce(s.keep_failed, s.retention)
    from rota.settings as s
    union all
    select q.name, true, q.keep_completed
    from rota.queues as q
    where q.keep_completed is not null
    union all
    select q.name, false, q.keep_failed
    from rota.queues as q
    where q.keep_failed is not null
$$;

comment on function rota._kept_spans is
    'List how long what ended is kept, by queue and outcome.';
