-- depends: 0163_unkept_jobs

-- All that is left of a job that completed where nothing is kept: enough for a finish that is
-- repeated, and for roll_up to count. By the hour, dropped after two (maintain). Not a primary key,
-- which would be looked through for each row: a job completes once.
create table if not exists rota.receipts (
    id bigint not null,
    token uuid not null,
    queue text not null,
    task text not null,
    first_due_at timestamptz,  -- of one that completed in its first attempt
    started_at timestamptz not null,
    finished_at timestamptz not null
) partition by range (finished_at);

-- Nothing is in the table, so nobody waits for its indexes.
-- squawk-ignore require-concurrent-index-creation
create index if not exists receipts_by_job on rota.receipts (id);

-- squawk-ignore require-concurrent-index-creation
create index if not exists receipts_times on rota.receipts
    using brin (finished_at) with (pages_per_range = 32, autosummarize = on);

create table if not exists rota.receipts_default
    partition of rota.receipts default;

alter table rota.receipts_default replica identity full;

do $$
begin
    if to_regtype('rota.kept_span') is null then
        create type rota.kept_span as (
            queue text,         -- null: all that have none of their own
            completed boolean,  -- of what succeeded, or of the rest
            span interval
        );
    end if;

    if to_regtype('rota.history_part') is null then
        create type rota.history_part as (
            name text,
            starts_at timestamptz,
            ends_at timestamptz
        );
    end if;
end;
$$;
