-- The functions that claim and finish jobs know nothing of this: it counts what is on record
-- anyway. One session at a time, which holds the chore's row; another gets 0 at once and loses
-- nothing. A minute is counted once, when nothing more can end in it, in three steps, each the work
-- of a later call; what a call finds out it writes into the row, so any session may take the next.
--
-- 1. The minute has been over for 15 s. Whoever ends an attempt reads the clock and at once opens
--    live_jobs, so who read it before the minute's end has done so by now. Those who have no id
--    that is older than ours are noted (_clock_readers).
-- 2. Each of them has ended, or has such an id by now. Ours is noted, then. Who was prepared in the
--    midst of our look has changed its name, so a prepared transaction with a younger id is one.
-- 3. No transaction is open with an id as old as that: all have committed, prepared ones too, and
--    the next snapshot shows what they did, or they never will.
--
-- So one transaction that stays open after it has finished a job holds the statistics up, but
-- nothing else. A note of another server (a copy, a restore) has an id that is yet to come here,
-- and is made anew. Counts, totals and how far they go are one transaction: if this process dies on
-- any line, nothing was counted, and the next call counts it. A clock that is put back has the
-- minutes that come again counted anew (_recount_from), in place of what stood there, and a note of
-- minutes that are not over any more is none.
--
-- More minutes at a time while that is quick, for a second. Lock order: the chore, alone.
create or replace function rota.roll_up(max_minutes integer default 10080)
    returns integer
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_began constant timestamptz := clock_timestamp();
    v_now constant timestamptz := rota._now();
    v_ready constant timestamptz := date_trunc('minute', v_now - interval '15 s', 'UTC');
    v_before rota.chores;
    v_chore rota.chores;
    v_open text[];
    v_to timestamptz;
    v_step integer := 1;
    v_number integer := 0;
begin
    if max_minutes is null or max_minutes not between 1 and 100000 then
        raise exception 'max_minutes must be from 1 to 100000, not %',
            coalesce(max_minutes::text, 'null')
            using errcode = 'RTV01';
    end if;

    select c.* into v_chore
    from rota.chores as c
    where c.chore = 'roll_up';

    if v_chore.until >= v_ready
        and v_chore.until = rota._recount_from(v_chore.until, v_now)
        and v_chore.ready_until is null
    then
        return 0;
    end if;

    if not rota._take_chore('roll_up') then
        return 0;
    end if;

    select c.* into v_before
    from rota.chores as c
    where c.chore = 'roll_up';

    v_chore := v_before;
    v_chore.until := rota._recount_from(
        coalesce(v_before.until, date_trunc('hour', v_ready, 'UTC')), v_now
    );
    v_chore.since := least(v_chore.since, v_chore.until);

    if v_chore.until is distinct from v_before.until
        or v_chore.ready_until > v_ready
        or v_chore.xid >= pg_snapshot_xmax(pg_current_snapshot())
    then
        v_chore.ready_until := null;
    end if;

    if v_chore.ready_until is not null
        and pg_snapshot_xmin(pg_current_snapshot()) > v_chore.xid
    then
        while v_chore.until < v_chore.ready_until and v_number < max_minutes loop
            v_to := least(
                v_chore.until + least(v_step, max_minutes - v_number) * interval '1 minute',
                v_chore.ready_until
            );
            perform rota._count_minutes(v_chore.until, v_to);

            v_number := v_number + extract(epoch from v_to - v_chore.until)::integer / 60;
            v_chore.until := v_to;
            exit when clock_timestamp() > v_began + interval '1 second';

            if clock_timestamp() < v_began + interval '250 ms' then
                v_step := v_step * 2;
            end if;
        end loop;

        v_chore.ran_at := v_now;
        v_chore.took := clock_timestamp() - v_began;
    end if;

    if v_chore.until >= v_chore.ready_until then
        v_chore.ready_until := null;
        v_chore.xid := null;
        v_chore.readers := null;
    end if;

    if v_chore.ready_until is null and v_ready > v_chore.until then
        v_chore.ready_until := v_ready;
        v_chore.xid := null;
        v_chore.readers := rota._clock_readers();
    end if;

    if v_chore.ready_until is not null and v_chore.xid is null then
        v_open := rota._clock_readers();
        v_chore.readers := array(
            select u.reader
            from unnest(v_open) as u(reader)
            where u.reader = any(v_chore.readers) or u.reader like '-1/%'
        );
        if v_chore.readers = '{}' then
            v_chore.xid := pg_current_xact_id();
        end if;
    end if;

    if v_chore is distinct from v_before then
        update rota.chores as c
        set ran_at = v_chore.ran_at,
            took = v_chore.took,
            since = v_chore.since,
            until = v_chore.until,
            ready_until = v_chore.ready_until,
            readers = v_chore.readers,
            xid = v_chore.xid
        where c.chore = 'roll_up';
    end if;

    return v_number;
end;
$$;

comment on function rota.roll_up is
    'Count the attempts that ended, minute by minute, and return how many minutes were counted.';
