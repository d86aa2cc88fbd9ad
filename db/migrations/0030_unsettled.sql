-- depends: 0021_backfill_keys

-- Since when the next slot of a schedule could not be computed. Its row then stands for no run:
-- scheduled_for is a slot that had its run, or was given up, and run_at is when it is tried again.
-- Null for all other jobs, which pay nothing for it.
alter table rota.live_jobs add column if not exists unsettled_since timestamptz;

-- What follows a run, as far as it can be computed. The type that was used before, next_slot, stays
-- for the sessions that run while this is deployed, and so does slot_list.
do $$
begin
    if to_regtype('rota.following_slot') is null then
        create type rota.following_slot as (
            slot timestamptz,    -- null: the schedule is over, or there was an error
            run_at timestamptz,  -- later by its jitter, or 'infinity' while paused
            error text
        );
    end if;
end;
$$;

-- Until now such a schedule stopped for ever. Those that did go on from here.
update rota.live_jobs as j
set scheduled_for = clock_timestamp(),
    run_at = case when s.paused_at is null
        then clock_timestamp() + interval '1 minute'
        else 'infinity'
    end,
    unsettled_since = clock_timestamp()
from rota.schedules as s
where s.job_id = j.id
    and j.state = 'SCHEDULED'
    and j.scheduled_for = 'infinity';
