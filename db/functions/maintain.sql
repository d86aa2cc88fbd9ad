-- One session at a time; another returns at once. Partitions are made and dropped under a short
-- lock timeout, and each of these two steps gives up as a whole and lets go of its locks when one
-- cannot be had: what somebody's long transaction prevents now is done at the next call, and no
-- finish is queued behind a waiting lock for longer than that, nor deadlocks with one. Until a week
-- exists, the default partition takes its rows. Only finished jobs and executions are ever dropped.
create or replace function rota.maintain()
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '200ms'
as $$
declare
    v_now timestamptz := rota._now();
    v_retention interval;
    v_week timestamptz;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('rota.maintain', 0)) then
        return;
    end if;

    select s.retention into v_retention
    from rota.settings as s;

    begin
        for v_weeks_ahead in 0..4 loop
            v_week := v_now + v_weeks_ahead * interval '7 days';
            perform rota._make_partition('finished_jobs', v_week);
            perform rota._make_partition('job_executions', v_week);
        end loop;
    exception
        when lock_not_available then
            raise notice 'the coming weeks could not be prepared; the next maintain tries again';
    end;

    begin
        perform rota._drop_partitions('finished_jobs', v_now - v_retention);
        perform rota._drop_partitions('job_executions', v_now - v_retention);
    exception
        when lock_not_available then
            raise notice 'old weeks could not be dropped; the next maintain tries again';
    end;

    -- Copies of a lane, which concurrent first jobs left, or a deletion of its queue. The first
    -- that is in use stays, else the first, so a producer that saw a lane is always right.
    delete from rota.lanes as l
    using rota.lanes as kept
    where kept.queue = l.queue
        and kept.priority = l.priority
        and (kept.retired_at is not null, kept.ctid) < (l.retired_at is not null, l.ctid);

    delete from rota.workers as w
    where w.last_seen_at < v_now - interval '1 day';

    delete from rota.schedules as s
    where not exists (select from rota.jobs as j where j.id = s.job_id);
end;
$$;

comment on function rota.maintain is
    'Prepare the coming weeks, drop what is older than the retention, and tidy up.';
