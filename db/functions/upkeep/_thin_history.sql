-- Partitions go when the longest time for which something is kept has passed (maintain); what runs
-- out before that is taken out of them here. A step a call, each in a transaction of its own, for a
-- tenth of the time at most, by one session at a time: a copy is prepared, and filled bit by bit;
-- when that has been committed, it is noted which transactions are open, for their snapshots may be
-- older; when all of them have ended, it is exchanged for the partition. If this process dies on
-- any line, the step before is what there is, and the next call goes on from there.
--
-- Lock order: the chore, then settings; a partition that is over, against writers, for its trigger;
-- the parent, the partition and the default one against everybody, as the last act.
create or replace function rota._thin_history(most interval)
    returns boolean
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '200ms'
as $$
declare
    v_began constant timestamptz := clock_timestamp();
    v_now constant timestamptz := rota._now();
    v_part rota.thinned;
    v_done boolean;
    v_more boolean := true;
begin
    perform set_config('lock_timeout', greatest(1, least(200, s.setting::integer / 2))::text, true)
    from pg_catalog.pg_settings as s
    where s.name = 'deadlock_timeout';

    if current_setting('transaction_isolation') <> 'read committed'
        or exists (
            select
            from rota.chores as c
            where c.chore = 'thin_history'
                and c.until > v_now
                and c.ran_at <= v_now
        )
        or not rota._take_chore('thin_history')
    then
        return false;
    end if;

    select t.* into v_part
    from rota.thinned as t
    where t.going is not null or to_regclass(format('rota.%I', t.part)) is null
    order by t.ends_at, t.part
    limit 1;

    if not found then
        v_more := rota._begin_thinning(v_now);
    elsif v_part.xid = pg_current_xact_id() then
        return true;  -- several calls in one transaction
    elsif to_regclass(format('rota.%I', v_part.part)) is null then
        perform rota._end_thinning(v_part, false);
    elsif v_part.next_block is not null then
        perform rota._thin_blocks(v_part, v_now, most);
    elsif not v_part.copies or v_part.removed_completed + v_part.removed_failed = 0 then
        perform rota._end_thinning(v_part, true);
    elsif v_part.open is null then
        update rota.thinned as t
        set xid = pg_current_xact_id(),
            open = rota._open_transactions()
        where t.part = v_part.part;
    elsif not v_part.open && rota._open_transactions() then
        begin
            v_done := rota._swap_partition(v_part);
        exception
            when lock_not_available then
                raise;
            when others then
                raise warning 'rota.% could not be replaced, and keeps what ran out: %',
                    v_part.part, sqlerrm;
                v_done := true;
        end;

        if v_done then
            perform rota._end_thinning(v_part, true);
        end if;
    end if;

    update rota.chores as c
    set ran_at = v_now,
        took = clock_timestamp() - v_began,
        until = v_now + greatest(
            9 * (clock_timestamp() - v_began),
            case when not v_more then interval '1 minute' end
        )
    where c.chore = 'thin_history';

    return v_more;
end;
$$;

comment on function rota._thin_history is
    'Take a step in removing what has run out from partitions that are still to be kept; false if'
    ' there is nothing to do now.';
