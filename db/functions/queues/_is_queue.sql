-- A queue is there when it has settings, when jobs were ever added to it, or when jobs are in it
-- that came while it was deleted.
create or replace function rota._is_queue(queue text)
    returns boolean
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select exists (select from rota.queues as q where q.name = _is_queue.queue)
        or exists (
            select from rota.lanes as l
            where l.queue = _is_queue.queue and l.retired_at is null
        )
        or exists (
            select from rota.live_jobs as j
            where j.queue = _is_queue.queue and (j.counted and j.left_lane) is not true
        )
        or exists (select from rota.live_jobs as j where j.queue = _is_queue.queue and j.counted)
$$;

comment on function rota._is_queue is
    'Tell whether there is a queue of this name.';
