-- The time of a job that may be due at once. The transaction has its id before the time is read:
-- one that a claim's snapshot does not know yet enqueues for a time after that snapshot, so a
-- cursor that waits for the transactions it knows overlooks no job (claim_next_job).
--
-- Whoever adds a job asks for the time before an id is given to it. So here is where a session sees
-- to it, once, that ids are not given out twice after a failover (_freshen_ids): no session
-- outlives the timeline on which it wrote.
create or replace function rota._enqueue_time()
    returns timestamptz
    language sql
    volatile
as $$
    select case
        when pg_current_xact_id() is not null
            and (current_setting('rota.ids', true) = 'fresh' or rota._freshen_ids())
            then rota._now()
    end
$$;

comment on function rota._enqueue_time is
    'Tell the time, to a transaction that has an id and will give new ones.';
