-- depends: 0127_filter_by_key

-- Due jobs that wait for room under a limit, of their key or of their queue; and since when the
-- first of the others is due.
alter table rota.census
    add column if not exists no_room bigint not null default 0,
    add column if not exists oldest_with_room_at timestamptz;

-- A function in SQL must return what its type has by now. So whoever counts before the functions
-- are replaced gets rows as they are from now on, or no census could be taken and no doctor asked;
-- that may be for long, if a deploy ends here. What it calls is not there in a new database yet.
set local check_function_bodies = off;

create or replace function rota._count_live(at timestamptz)
    returns setof rota.census
    language sql
    stable
    set search_path = pg_catalog, pg_temp
    set jit = off
as $$
    select
        j.queue::text,
        j.task::text,
        j.priority::integer,
        count(*) filter (where j.state = 'SCHEDULED'),
        count(*) filter (where j.state = 'SCHEDULED' and j.run_at <= at),
        count(*) filter (where j.state = 'SCHEDULED' and j.attempt > 0),
        count(*) filter (where j.state = 'RUNNING'),
        count(*) filter (where j.state = 'RUNNING' and j.lease_until < at),
        count(*) filter (
            where j.state = 'RUNNING' and rota._later(j.started_at, j.timeout) <= at
        ),
        min(j.run_at::timestamptz) filter (where j.state = 'SCHEDULED' and j.run_at <= at),
        min(j.lease_until::timestamptz) filter (
            where j.state = 'RUNNING' and j.lease_until < at
        ),
        min(rota._later(j.started_at, j.timeout)) filter (
            where j.state = 'RUNNING' and rota._later(j.started_at, j.timeout) <= at
        ),
        0::bigint,
        min(j.run_at::timestamptz) filter (where j.state = 'SCHEDULED' and j.run_at <= at)
    from rota.live_jobs as j
    group by j.queue, j.task, j.priority
$$;

set local check_function_bodies = on;
