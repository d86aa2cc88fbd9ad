-- Reads before it writes, so an enqueue into a lane that exists locks nothing. Two sessions that
-- both see no lane both add one: see the table for why that is wanted. The lane is written in the
-- job's own transaction, so a claim that can see the job can see its lane.
create or replace function rota._use_lane(queue text, priority integer)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (
        select from rota.lanes as l
        where l.queue = _use_lane.queue and l.priority = _use_lane.priority
            and l.retired_at is null
    ) then
        insert into rota.lanes (queue, priority)
        values (_use_lane.queue, _use_lane.priority);
    end if;
end;
$$;

comment on function rota._use_lane is
    'Make sure that claims look for jobs of this queue and priority.';
