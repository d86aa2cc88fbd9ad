-- depends: 0101_statistics_chores

-- What waits and runs, as it was when take_census counted last.
create table if not exists rota.census (
    queue text not null,
    task text not null,
    priority integer not null,
    scheduled bigint not null,  -- due or not
    due bigint not null,
    retrying bigint not null,   -- waits for another attempt
    running bigint not null,
    lost bigint not null,       -- RUNNING, but the lease has run out
    overdue bigint not null,    -- RUNNING for longer than its timeout
    oldest_due_at timestamptz,
    lost_since timestamptz,

    constraint census_pkey primary key (queue, task, priority)
) with (fillfactor = 50);

-- The jobs that run then, by worker, and of each queue the twenty that run longest.
create table if not exists rota.census_workers (
    worker text not null,
    queue text not null,
    running bigint not null,
    longest_running bigint[] not null,

    constraint census_workers_pkey primary key (worker, queue)
) with (fillfactor = 50);

-- How deep a queue was in the course of time, from the first census of each minute; after 8 days
-- the most of each hour. A queue with no live job has no row.
create table if not exists rota.depths (
    minute timestamptz not null,
    seconds integer not null,  -- how long it stands for: 60 or 3600
    queue text not null,
    scheduled bigint not null,
    due bigint not null,
    running bigint not null,
    oldest_due_seconds float8,

    constraint depths_pkey primary key (minute, queue)
);

create index if not exists depths_to_become_hours on rota.depths (minute) where seconds = 60;
