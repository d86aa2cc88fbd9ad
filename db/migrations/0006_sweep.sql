-- depends: 0005_cursor

-- Where a session's scans of one lane start, and how far back it has looked for what lies behind:
-- the claim cursor, kept in a setting of the session (claim_next_job). The types that were used
-- before, lane_cursor and lane_place, stay for the sessions that run while this is deployed.
do $$
begin
    if to_regtype('rota.lane_scan') is null then
        create type rota.lane_scan as (
            queue text,
            priority integer,
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
            swept_at timestamptz      -- when time for looking behind begins to add up
        );
    end if;

    if to_regtype('rota.found_behind') is null then
        create type rota.found_behind as (
            cursor rota.lane_scan,
            places tid[],
            recurring boolean
        );
    end if;
end;
$$;
