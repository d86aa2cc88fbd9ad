-- One row lock. Jobs that the worker still holds are not touched: their leases decide, for it was
-- not taken for dead.
create or replace function rota.dismiss_worker(worker text)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if not rota._is_uuid(worker) then
        perform rota._check_name(worker);
    end if;

    update rota.workers as w
    set last_seen_at = rota._now(),
        stopped_at = rota._now(),
        gone_at = null
    where w.worker = dismiss_worker.worker and rota._sees_worker(w.queues);
end;
$$;

comment on function rota.dismiss_worker is
    'Show operators that a worker process stopped by itself.';
