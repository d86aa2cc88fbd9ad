-- An empty setting is what a session keeps of one whose transaction rolled back.
create or replace function rota._has_lane_cursor(queue text, priority integer)
    returns boolean
    language sql
    stable
as $$
    select coalesce(current_setting(rota._lane_setting(queue, priority), true), '') <> ''
$$;

comment on function rota._has_lane_cursor is
    'Tell whether this session may have a cursor of a lane.';
