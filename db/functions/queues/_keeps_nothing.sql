create or replace function rota._keeps_nothing(queue text)
    returns boolean
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(q.keep_completed, s.keep_completed) = interval '0'
    from rota.settings as s
    left join rota.queues as q on q.name = _keeps_nothing.queue
$$;

comment on function rota._keeps_nothing is
    'Tell whether a queue keeps nothing of the jobs that complete.';
