-- depends: 0075_one_history_row

-- The claim cursor, which sessions keep in a setting (_note_scan), and share in this table where a
-- scan from a lane's start is slow, so that a session's first claim is not. Rows are only added,
-- and the newest of a lane is read: an old snapshot keeps the others, and nobody has to pass them.
-- Nobody waits for anybody here, either. maintain removes what is not the newest.
--
-- The types that were used before, lane_scan and found_behind, stay for the sessions that run while
-- this is deployed.
create table if not exists rota.lane_cursors (
    queue text not null,
    priority integer not null,
    run_at timestamptz,       -- where a scan starts
    id bigint,
    next_run_at timestamptz,  -- where it may start once that is settled
    next_id bigint,
    next_xid xid8,            -- all transactions that were open then are older than this,
    sure boolean,             -- if our own was not open before
    noted_at timestamptz,     -- when the next place was found; null for no cursor
    settled boolean,          -- all of them have ended
    swept_run_at timestamptz, -- from here to the start of this sweep nothing is left behind
    swept_id bigint,
    slice interval,           -- of run_at, that the next look behind takes in
    sweep_took interval,      -- the looks of this sweep so far
    swept_at timestamptz,     -- when time for looking behind begins to add up
    sweeps bigint,            -- how many have come to their end
    shared_at timestamptz     -- when one of this lane was last shared, as far as is known
);

create index if not exists lane_cursors_by_lane
    on rota.lane_cursors (queue, priority, shared_at);

-- Rows cannot be told apart otherwise, and so not deleted from a table in a publication.
alter table rota.lane_cursors replica identity full;

-- Since when claims of this lane share a cursor; null where no scan is slow. A claim reads the row
-- anyway. It is written rarely (_tidy_cursors), for an old snapshot keeps each version of the row.
alter table rota.lanes add column if not exists cursor_since timestamptz;

do $$
begin
    if to_regtype('rota.looked_behind') is null then
        create type rota.looked_behind as (
            cursor rota.lane_cursors,
            places tid[],
            recurring boolean
        );
    end if;
end;
$$;
