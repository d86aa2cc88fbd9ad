-- depends: 0060_retired_lanes

-- What the claim's cursor was before, and the functions of then that still name it.
-- squawk-ignore ban-drop-type
drop type if exists rota.lane_cursor cascade;
-- squawk-ignore ban-drop-type
drop type if exists rota.lane_place cascade;
