-- The name is a hash of the lane: settings have names of 63 bytes, and queues longer ones. Another
-- type of the value, or another way to write it, needs another name, for a session outlives the
-- deploy of new functions.
create or replace function rota._lane_setting(queue text, priority integer)
    returns text
    language sql
    immutable
as $$
    select 'rota.cursor_' || to_hex(hashtextextended(queue, priority))
$$;

comment on function rota._lane_setting is
    'Name the setting in which a session keeps its cursor of a lane.';
