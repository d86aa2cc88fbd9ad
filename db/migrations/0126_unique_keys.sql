-- depends: 0125_keyed_lanes

-- Who has a unique_key beyond what live_jobs says of it: written only where an enqueue asks for
-- unique_for or replace, so that no claim and no finish has to do with it. A key with unique_for is
-- taken until then, whatever becomes of its job. One with replace leads to the job that waits for
-- its delay; that job has no unique_key in live_jobs, so the next may be added while it runs.
--
-- A row is the mutex of its key: who writes it is alone until he has committed.
create table if not exists rota.unique_keys (
    queue text not null,
    unique_key text not null,
    job_id bigint not null,
    until timestamptz not null,  -- of a key with replace: when it was taken

    constraint unique_keys_pkey primary key (queue, unique_key)
) with (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000
);

create index if not exists unique_keys_by_end
    on rota.unique_keys (until);
