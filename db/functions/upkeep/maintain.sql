-- One session at a time, which holds the chore's row; another returns at once. Nobody but our own
-- functions can lock that row, nor any other that is locked here, and none of them is waited for.
-- Partitions come last (docs/inside.md has the order), so that nothing is waited for while their
-- parents are locked, but the second parent, for no longer than lock_timeout: half of
-- deadlock_timeout at most, so that who waits for us meanwhile is not told of a deadlock.
-- Of what may be much a second's worth is removed, in portions.
-- Whatever cannot be done is left for the next call, reported by a warning, and stops nothing else.
-- Only finished jobs, attempts, receipts and the record of actions are ever dropped: partitions
-- when the longest time for which anything is kept has passed (what runs out before that is taken
-- out by _thin_history), and when all in them has been counted, or a day later. Of a schedule that
-- has ended, the definition goes with the call after the one that dropped its job.
create or replace function rota.maintain()
    returns void
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '200ms'
as $$
declare
    v_began timestamptz := clock_timestamp();
    v_now timestamptz := rota._now();
    v_older_than timestamptz;
    v_old timestamptz;  -- for what is kept for a week at least
    v_counted timestamptz;
    v_parent text;
    v_since timestamptz;
    v_count bigint;
begin
    perform set_config('lock_timeout', greatest(1, least(200, s.setting::integer / 2))::text, true)
    from pg_catalog.pg_settings as s
    where s.name = 'deadlock_timeout';

    if not rota._take_chore('maintain') then
        return;
    end if;

    -- Nothing is dropped while somebody changes the retention.
    select rota._later(v_now, -(select max(k.span) from rota._kept_spans() as k))
    into v_older_than
    from rota.settings as s
    for no key update skip locked;

    v_old := case
        when v_older_than is not null then least(v_older_than, v_now - interval '7 days')
    end;

    begin
        perform rota._heal_job_ids();
    exception
        when others then
            raise warning 'the ids of jobs could not be put right: %', sqlerrm;
    end;

    begin
        -- Copies of a lane, which concurrent first jobs left, or a deletion of its queue. The first
        -- that is in use stays, else the first, so a producer that saw a lane is always right.
        delete from rota.lanes as d
        where d.ctid = any(array(
            select l.ctid
            from rota.lanes as l
            join rota.lanes as kept on kept.queue = l.queue and kept.priority = l.priority
                and kept.keyed is not distinct from l.keyed
            where (kept.retired_at is not null, kept.ctid) < (l.retired_at is not null, l.ctid)
            for update of l skip locked
        ));
    exception
        when others then
            raise warning 'copies of lanes could not be removed: %', sqlerrm;
    end;

    begin
        perform rota._tidy_cursors(v_now);
    exception
        when others then
            raise warning 'cursors that nobody reads could not be removed: %', sqlerrm;
    end;

    begin
        perform rota._mend_turns(v_now);
    exception
        when others then
            raise warning 'turns of a clock that was put back could not be mended: %', sqlerrm;
    end;

    begin
        -- In strict order, where functions of before ended an attempt that those of now had begun.
        update rota.live_jobs as j
        set left_lane = null
        where j.ctid = any(array(
            select o.ctid
            from rota.live_jobs as o
            where o.counted and o.left_lane and o.state = 'SCHEDULED'
            for no key update skip locked
        ));
    exception
        when others then
            raise warning 'jobs that wait could not be put into their lanes: %', sqlerrm;
    end;

    begin
        perform rota._forget_flows(v_now);
    exception
        when others then
            raise warning 'flows of keys that are idle could not be forgotten: %', sqlerrm;
    end;

    begin
        delete from rota.workers as w
        where w.ctid = any(array(
            select g.ctid
            from rota.workers as g
            where g.last_seen_at < v_now - interval '24 hours'
            for update skip locked
        ));
    exception
        when others then
            raise warning 'workers that are gone could not be forgotten: %', sqlerrm;
    end;

    begin
        delete from rota.schedules as s
        where s.ctid = any(array(
            select o.ctid
            from rota.schedules as o
            where not exists (select from rota.live_jobs as j where j.id = o.job_id)
                and not exists (select from rota.finished_jobs as f where f.id = o.job_id)
            for update of o skip locked
        ));
    exception
        when others then
            raise warning 'definitions of schedules could not be removed: %', sqlerrm;
    end;

    begin
        delete from rota.unhandled_jobs as u
        where u.ctid = any(array(
            select p.ctid
            from rota.unhandled_jobs as p
            where p.until < v_now
            for update skip locked
        ));
    exception
        when others then
            raise warning 'notes of jobs without a handler could not be removed: %', sqlerrm;
    end;

    begin
        v_since := clock_timestamp();

        loop
            delete from rota.action_log as a
            where a.action_id = any(array(
                select o.action_id
                from rota.action_log as o
                where o.at < v_old
                order by o.at
                limit 5000
                for update skip locked
            ));
            get diagnostics v_count = row_count;
            exit when v_count < 5000 or clock_timestamp() > v_since + interval '1 second';
        end loop;
    exception
        when others then
            raise warning 'old actions could not be removed: %', sqlerrm;
    end;

    begin
        v_since := clock_timestamp();

        loop
            exit when rota._forget_requests(v_now, 5000) < 5000
                or clock_timestamp() > v_since + interval '1 second';
        end loop;
    exception
        when others then
            raise warning 'answers of old requests could not be forgotten: %', sqlerrm;
    end;

    begin
        v_since := clock_timestamp();

        loop
            exit when rota._forget_unique_keys(v_now, 5000) < 5000
                or clock_timestamp() > v_since + interval '1 second';
        end loop;
    exception
        when others then
            raise warning 'unique keys that are over could not be forgotten: %', sqlerrm;
    end;

    begin
        perform rota._heal_edges(1000);
    exception
        when others then
            raise warning 'what waits for jobs that have ended could not be settled: %', sqlerrm;
    end;

    begin
        v_since := clock_timestamp();

        loop
            exit when rota._forget_workflows(v_old, 1000) < 1000
                or clock_timestamp() > v_since + interval '1 second';
        end loop;

        loop
            exit when rota._forget_steps(v_old, v_now, 5000) < 5000
                or clock_timestamp() > v_since + interval '2 seconds';
        end loop;
    exception
        when others then
            raise warning 'old workflows, steps and events could not be removed: %', sqlerrm;
    end;

    -- Before history goes, so that it has been counted where nobody else rolls up.
    begin
        perform rota.roll_up();
    exception
        when others then
            raise warning 'what ended could not be counted: %', sqlerrm;
    end;

    begin
        perform rota._thin_statistics(v_now);
    exception
        when others then
            raise warning 'old statistics could not be thinned: %', sqlerrm;
    end;

    v_counted := rota._counted_until(v_now);

    foreach v_parent in array array['finished_jobs', 'attempts', 'receipts'] loop
        begin
            perform rota._keep_weeks(v_parent, v_now, case
                when v_older_than is null then null
                when v_parent = 'receipts' then least(v_now - interval '2 hours', v_counted)
                else least(v_older_than, v_counted)
            end);
        exception
            when others then
                raise warning 'the partitions of rota.% could not be kept: %', v_parent, sqlerrm;
        end;
    end loop;

    begin
        perform rota._mark_lanes(v_now);
    exception
        when others then
            raise warning 'queues that keep nothing could not be marked: %', sqlerrm;
    end;

    update rota.chores as c
    set ran_at = v_now,
        took = clock_timestamp() - v_began
    where c.chore = 'maintain';
end;
$$;

comment on function rota.maintain is
    'Prepare partitions of history ahead, drop what is older than all that is kept, and tidy up.';
