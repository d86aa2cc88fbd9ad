-- depends: 0004_preview

-- Where a lane's cursor may go next, and what must be over before (claim_next_job).
do $$
begin
    if not exists (
        select from pg_attribute
        where attrelid = (select typrelid from pg_type where oid = 'rota.lane_cursor'::regtype)
            and attname = 'next_run_at'
    ) then
        alter type rota.lane_cursor
            add attribute next_run_at timestamptz,
            add attribute next_id bigint,
            add attribute next_xid xid8,
            add attribute settled boolean;
    end if;
end;
$$;
