-- depends: 0050_workers

-- A lane of a queue that was deleted. Its row stays: an enqueue that saw the lane before may commit
-- its job after the deletion, and claims must know where to look for it. Nobody is shown the queue
-- any more, and the next enqueue adds a lane anew (_use_lane).
alter table rota.lanes add column if not exists retired_at timestamptz;
