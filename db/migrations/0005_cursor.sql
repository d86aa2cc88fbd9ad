-- depends: 0004_preview

-- A position in one lane of waiting jobs, kept in a setting of a session (claim_next_job). The
-- type that was used before, lane_cursor, stays for the sessions that run while this is deployed.
do $$
begin
    if to_regtype('rota.lane_place') is null then
        create type rota.lane_place as (
            queue text,
            priority integer,
            run_at timestamptz,       -- where a scan starts
            id bigint,
            made_at timestamptz,
            expires_at timestamptz,
            next_run_at timestamptz,  -- where it may start once that is settled
            next_id bigint,
            next_xid xid8,            -- all transactions that were open then are older than this,
            sure boolean,             -- if our own was not open before
            noted_at timestamptz,     -- when the next place was found
            settled boolean           -- all of them have ended
        );
    end if;
end;
$$;
