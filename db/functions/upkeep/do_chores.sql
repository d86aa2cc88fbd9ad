-- One call of all that is done every few seconds, whoever does it: workers, the API for those over
-- HTTP, pg_cron. So counting costs an idle worker no statement of its own.
-- Recovery comes first, and what it found is committed at once: a count reads the whole table, and
-- who runs out of time in one must not have taken back anything in vain. What cannot be counted is
-- reported by a warning, and stops nothing else. That a house is empty is noted once a minute: one
-- in which nothing happens is to write next to nothing.
-- Each look for lost jobs reads the whole table, too: the next comes after a hundred times what
-- this one took, a minute at most. After a find there may be more than one call takes back.
-- Limits that are new are put in force, also where no claim does (_settle_limits), and that is
-- committed at once, too: what runs in their queues is locked.
-- What has run out of history is taken out here, too, bit by bit and a tenth of the time at most.
-- Lock order: that of recover_jobs; or that of new limits, and then what runs in their queues; or
-- the chores of counting. All these are passed by when locked. Then that of _thin_history, whose
-- last act is the exchange of a partition.
create or replace function rota.do_chores(max_jobs integer default 1000)
    returns rota.chores_done
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_began constant timestamptz := clock_timestamp();
    v_recovered constant integer := rota.recover_jobs(max_jobs);
    v_took constant float8 := extract(epoch from clock_timestamp() - v_began);  -- seconds
    v_settled boolean;
begin
    if v_recovered > 0 then
        return row(v_recovered, v_took)::rota.chores_done;
    end if;

    begin
        select bool_or(rota._settle_limits(q.name, q.limited)) into v_settled
        from rota.queues as q
        join rota.flow_locks as l on l.queue = q.name and l.number = -1 and not l.settled
        where q.limited > 0;
    exception
        when others then
            raise warning 'limits that are new could not be put in force: %', sqlerrm;
    end;

    if v_settled then
        return row(0, 0)::rota.chores_done;
    end if;

    begin
        perform rota.take_census(older_than => case
            when exists (select from rota.live_jobs) or exists (select from rota.census)
                then interval '9 seconds'
            else interval '1 minute'
        end);
    exception
        when others then
            raise warning 'what waits and runs could not be counted: %', sqlerrm;
    end;

    begin
        perform rota.roll_up();
    exception
        when others then
            raise warning 'what ended could not be counted: %', sqlerrm;
    end;

    begin
        perform rota._thin_history(interval '500 ms');
    exception
        when others then
            raise warning 'what ran out of history could not be removed: %', sqlerrm;
    end;

    return row(0, greatest(5, least(100 * v_took, 60)))::rota.chores_done;
end;
$$;

comment on function rota.do_chores is
    'Take back lost jobs, or else count what is to be counted by now; say how many were taken back,'
    ' and when to call again.';
