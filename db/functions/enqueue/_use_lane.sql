drop function if exists rota._use_lane(text, integer);

-- Reads before it writes, so an enqueue into a lane that exists locks nothing. Two sessions that
-- both see no lane both add one: see the table for why that is wanted. The lane is written in the
-- job's own transaction, so a claim that can see the job can see its lane.
create or replace function rota._use_lane(queue text, priority integer, keyed boolean)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from rota.lanes as l
        where l.queue = _use_lane.queue and l.priority = _use_lane.priority
            and l.keyed is not distinct from nullif(_use_lane.keyed, false)
            and l.retired_at is null
    ) then
        insert into rota.lanes (queue, priority, keyed)
        values (_use_lane.queue, _use_lane.priority, nullif(_use_lane.keyed, false));
    end if;
end;
$$;

comment on function rota._use_lane is
    'Make sure that claims look for jobs of this queue and priority, with keys or without.';
