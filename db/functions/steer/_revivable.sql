-- For the retry of jobs of which some are of workflows. They come back with those that went down
-- with them, but for such as depend on another one that did not complete and stays as it is: these
-- are noted as gone down with that one, and come back with it. What then waits for a live job gets
-- its edges here; its row in live_jobs is the caller's, in this transaction.
--
-- All of them are held, and all on which they depend (_hold_jobs). Whom a retry brings back is only
-- known when that is done: if somebody has noted one more as gone down with one of them meanwhile,
-- all is let go and taken again.
create or replace function rota._revivable(job_ids bigint[], is_bulk boolean)
    returns rota.revivable_jobs
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_family bigint[];
    v_held rota.held_jobs;
    v_back bigint[];
    v_failed bigint[];
    v_left bigint[];
    v_waiting bigint[];
begin
    loop
        v_family := rota._family(job_ids);

        begin
            v_held := rota._hold_jobs(array(
                select f.id from unnest(v_family) as f(id)
                union
                select p.id
                from rota.workflow_jobs as w
                cross join lateral unnest(w.depends_on) as p(id)
                where w.job_id = any(v_family)
            ));
            exit when cardinality(rota._family(job_ids)) = cardinality(v_family);
            raise exception using errcode = 'RTI02';
        exception
            when sqlstate 'RTI02' then
                null;
        end;
    end loop;

    v_back := array(
        select f.id from unnest(v_held.failed) as f(id)
        intersect
        select f.id from unnest(v_family) as f(id)
    );
    v_failed := array(
        select f.id from unnest(v_held.failed) as f(id)
        except
        select b.id from unnest(v_back) as b(id)
    );

    -- Of two with one unique key the second stays, with what depends on it; in a bulk, which passes
    -- by what cannot be, also one whose key a live job holds.
    v_left := array(
        select u.id
        from (
            select
                f.id,
                f.queue,
                f.unique_key,
                row_number() over (partition by f.queue, f.unique_key order by f.id) as place
            from rota.finished_jobs as f
            join rota.workflow_jobs as w on w.job_id = f.id
            where f.id = any(v_back) and w.job_id = any(v_back) and f.unique_key is not null
        ) as u
        where u.place > 1
            or is_bulk and exists (
                select
                from rota.live_jobs as j
                where j.unique_key = u.unique_key
                    and j.queue || '' = u.queue -- by the index of keys, not of lanes
            )
    );

    loop
        v_failed := v_failed || v_left;
        v_back := array(
            select b.id from unnest(v_back) as b(id)
            except
            select l.id from unnest(v_left) as l(id)
        );

        with stays as (
            select w.job_id, min(p.id) as cause
            from rota.workflow_jobs as w
            cross join lateral unnest(w.depends_on) as p(id)
            join unnest(v_failed) as f(id) on f.id = p.id
            where w.job_id = any(v_back) and w.if_parent_fails = 'cancel'
            group by w.job_id
        ), noted as (
            update rota.workflow_jobs as w
            set ended_by = s.cause
            from stays as s
            where w.job_id = any(v_back) and w.job_id = s.job_id and w.ended_by is not null
        )
        select array_agg(s.job_id) into v_left
        from stays as s;

        exit when v_left is null;
    end loop;

    with edge as materialized (
        select w.job_id as child_id, p.id as parent_id, w.if_parent_fails
        from rota.workflow_jobs as w
        cross join lateral unnest(w.depends_on) as p(id)
        join unnest(v_held.live || v_back) as k(id) on k.id = p.id
        where w.job_id = any(v_back)
    ), edges as (
        insert into rota.job_dependencies (parent_id, child_id, if_parent_fails)
        select e.parent_id, e.child_id, e.if_parent_fails
        from edge as e
        on conflict on constraint job_dependencies_pkey do nothing
    ), marked as ( -- as _hold_parents does
        update rota.live_jobs as j
        set linked = true
        from (select distinct e.parent_id as id from edge as e) as p
        where j.id = any(v_held.live) and j.id = p.id
    ), waits as (
        insert into rota.job_waits (job_id, open)
        select e.child_id, count(*)
        from edge as e
        group by e.child_id
        returning job_id
    ), cleared as (
        update rota.workflow_jobs as w
        set ended_by = null
        where w.job_id = any(v_back) and w.ended_by is not null
    )
    select coalesce(array_agg(w.job_id), '{}') into v_waiting
    from waits as w;

    return row(v_back, v_waiting)::rota.revivable_jobs;
end;
$$;

comment on function rota._revivable is
    'Hold those of these jobs, and of those that went down with them, that a retry brings back; say'
    ' which of them wait.';
