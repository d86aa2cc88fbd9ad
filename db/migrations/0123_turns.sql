-- depends: 0122_lanes_of_keys

-- Whose turn it is. A turn says: look for jobs of this key and priority from then on. It covers the
-- jobs from a place in their order on (from_run_at, from_id): whatever is SCHEDULED lies at or
-- behind the place of some turn of its key and priority. A turn with the place 'infinity' covers
-- nothing, and only says that there may be room now.
--
-- Rows are only added and removed, and locked with skip locked, so nobody waits for one. There is
-- no unique constraint on purpose, as for lanes: copies are harmless, and whoever takes a turn
-- takes all of its key that he can.
create table if not exists rota.turns (
    queue text not null,
    priority integer not null,
    key text not null,
    ready_at timestamptz not null,
    is_full boolean not null default false,  -- nothing of it may start before ready_at
    from_run_at timestamptz not null,
    from_id bigint not null,
    passed integer not null default 0  -- jobs that were taken behind that place
) with (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

create index if not exists turns_in_order
    on rota.turns (queue, priority, ready_at);

create index if not exists turns_by_key
    on rota.turns (queue, key, priority, ready_at);

-- Rows cannot be told apart otherwise, and so not deleted from a table in a publication.
alter table rota.turns replica identity full;

-- What is known of a key, or with the key '' of a queue as a whole: limits of its own where it is
-- an exception (null: as its queue says), and its last starts where these are limited. Each cell is
-- a span of time in which there were so many starts, by its end; there are no more than 65.
create table if not exists rota.flows (
    queue text not null,
    key text not null,
    max_running integer,
    max_starts integer,
    starts_period interval,
    cells timestamptz[] not null default '{}',
    starts integer[] not null default '{}',

    constraint flows_pkey primary key (queue, key),
    constraint max_running_positive check (max_running > 0),
    constraint max_starts_positive check (max_starts > 0),
    constraint starts_period_positive check (starts_period > interval '0'),
    constraint as_many_starts_as_cells check (cardinality(cells) = cardinality(starts))
);

-- Claims of what is limited exclude each other by these rows, and never wait for them: number -1 is
-- for the queue as a whole, the others for the keys whose hash they are (_flow_number). They are
-- made with a queue's first limit. settled and open_before stand in the row -1 (_settle_limits).
create table if not exists rota.flow_locks (
    queue text not null,
    number integer not null,
    settled boolean not null default false,  -- all that runs in the queue is counted
    open_before text[],                      -- transactions that may have started more

    constraint flow_locks_pkey primary key (queue, number)
) with (fillfactor = 50);

do $$
begin
    -- A key whose turn a claim has taken, and what may start of it.
    if to_regtype('rota.key_turn') is null then
        create type rota.key_turn as (
            key text,
            from_run_at timestamptz,
            from_id bigint,
            passed integer,
            room integer,            -- null: as many as there is room for in the claim
            opens_at timestamptz,    -- when to look again once there is no room left
            head_run_at timestamptz, -- of a key in strict order: only this job may start
            head_id bigint
        );
    end if;

    if to_regtype('rota.taken_turn') is null then
        create type rota.taken_turn as (
            turn tid,
            key text,
            from_run_at timestamptz,
            from_id bigint,
            passed integer,
            room integer,
            places tid[]
        );
    end if;

    if to_regtype('rota.taken_turns') is null then
        create type rota.taken_turns as (
            turns rota.key_turn[],  -- null: it is no key's turn
            refused text[],         -- keys of which another claim takes jobs just now
            share integer,          -- how many jobs each key was asked for
            places tid[],
            recurring boolean
        );
    end if;
end;
$$;

-- The function of the triggers of live_jobs does more from now on. They know it by its number, so
-- they go with its new name, and at no moment is a job with a key added without a turn
-- (_watch_jobs).
do $$
begin
    if to_regprocedure('rota._refuse_impossible_jobs()') is not null then
        alter function rota._refuse_impossible_jobs() rename to _watch_jobs;
    end if;
end;
$$;
