drop function if exists rota.announce_worker(text, text, integer, text[], integer, text);
drop function if exists rota.announce_worker(
    text, text, integer, text[], integer, text, text[], integer, timestamptz
);

-- What was announced last holds, all of it but since when: a worker may turn to other queues, and
-- be another process of that name. One row, locked by the upsert; nobody else writes it but
-- dismiss_worker of the same process, and recover_workers when the process is gone. By the session
-- of its last announcement a worker attends, as that function says, so that session must last for
-- as long as the worker lives. Behind a pooler that lends sessions there is none: such a worker
-- does not attend, nor does one whose last announcement does not say so, one of an older version
-- for instance.
-- Behind a wall a worker's name is one that nobody else can have: with the wall's beginning, or a
-- random UUID, as ours have. Who has learned a neighbour's UUID all the same changes nothing by it.
create or replace function rota.announce_worker(
    worker text,
    host text,
    pid integer,
    queues text[],
    concurrency integer,
    version text,
    tasks text[] default null,
    overrun integer default null,
    clock timestamptz default null,
    attends boolean default false
)
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
begin
    if worker is null or length(worker) not between 1 and 200 or queues is null then
        raise exception 'worker must have 1 to 200 characters, and queues must not be null'
            using errcode = 'RTV01';
    end if;

    if not rota._is_uuid(worker) then
        perform rota._check_name(worker);
    end if;

    perform rota._check_wall(u.queue)
    from unnest(queues) as u(queue);

    if overrun < 0 then
        raise exception 'overrun must not be negative, as % is', overrun
            using errcode = 'RTV01';
    end if;

    if not isfinite(clock) then
        raise exception 'clock must be a time, not %', clock
            using errcode = 'RTV01';
    end if;

    if attends and worker !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
        raise exception 'only a worker whose name is a uuid can attend, not %', worker
            using errcode = 'RTV01',
                  hint = 'Its jobs are taken back when its session ends, so nobody else may have'
                      ' or know its name.';
    end if;

    insert into rota.workers as w (
        worker, host, pid, queues, concurrency, version, started_at, last_seen_at, tasks, overrun,
        clock, backend, server_since
    )
    values (
        worker, host, pid, queues, concurrency, version, v_now, v_now, tasks, overrun, clock,
        case when attends then pg_backend_pid() end,
        case when attends then rota._server_since() end
    )
    on conflict ((w.worker)) do update
    set host = excluded.host,
        pid = excluded.pid,
        queues = excluded.queues,
        concurrency = excluded.concurrency,
        version = excluded.version,
        last_seen_at = v_now,
        stopped_at = null,
        tasks = announce_worker.tasks,
        overrun = announce_worker.overrun,
        clock = announce_worker.clock,
        backend = excluded.backend,
        server_since = excluded.server_since,
        gone_at = null
    where rota._sees_worker(w.queues);
end;
$$;

comment on function rota.announce_worker is
    'Show a worker process to operators; called at its start and now and then while it lives.';
