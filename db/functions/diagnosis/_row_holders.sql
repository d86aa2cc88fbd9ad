-- Read off the row itself, without a lock: xmax is the transaction that last locked or changed it,
-- or stands for several. For several it is a number of its own, of which the server tells who they
-- are, and how each locked the row; of any other number it may tell an error.
-- The part of a transaction that a savepoint was set for, and released, is not to be found among
-- the locks any more: then whoever may be meant is named, but not for sure.
create or replace function rota._row_holders(job_id bigint)
    returns setof rota.row_holder
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_xmax xid;
    v_several xid[] := '{}';
    v_next bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
    v_number bigint;
    v_is_open boolean := false;
begin
    select j.xmax into v_xmax
    from rota.live_jobs as j
    where j.id = _row_holders.job_id and j.xmax <> '0'::xid;

    if not found then
        return;
    end if;

    return query
        select h.*
        from rota._row_lockers() as h
        where h.xid = v_xmax;

    if found or pg_is_in_recovery() then
        return;
    end if;

    begin
        v_several := array(
            select m.xid
            from pg_get_multixact_members(v_xmax) as m
            where m.mode <> 'keysh'
        );
    exception
        when others then
            null;
    end;

    return query
        select h.*
        from rota._row_lockers() as h
        where h.xid = any(v_several);

    if found then
        return;
    end if;

    -- The number in full, of which a row has the last 32 bits: the nearest to those of now.
    v_number := v_next - 2147483648
        + mod(v_xmax::text::bigint - v_next + 2147483648 + v_next / 4294967296 * 4294967296
            + 4294967296, 4294967296);

    begin
        v_is_open := pg_xact_status(v_number::text::xid8) = 'in progress';
    exception
        when others then  -- one that is yet to come, so it stood for several
            null;
    end;

    if v_is_open then
        return query
            select
                h.xid, h.pid, h.gid, h.username, h.application, h.state, h.since,
                h.only_refers, false
            from rota._row_lockers() as h
            where h.gid is null
            order by h.since
            limit 5;
    end if;
end;
$$;

comment on function rota._row_holders is
    'Tell who has locked the row of a live job now, a session or a prepared transaction.';
