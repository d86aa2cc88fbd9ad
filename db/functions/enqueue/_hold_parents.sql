-- Jobs that exist already and on which new ones are to depend. What lies behind a wall of the
-- caller is refused before its row is locked, for to wait would tell of it. Those that live are
-- marked, so that their finish looks for what depends on them. Marked anew each time: who ends one
-- at REPEATABLE READ, in a snapshot without what is added here, meets a row that has changed since
-- (40001). Until the caller commits they cannot end, and claims pass them by, while their
-- heartbeats go on.
create or replace function rota._hold_parents(job_ids bigint[])
    returns rota.held_jobs
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_held rota.held_jobs;
    v_known bigint[];
    v_id bigint;
begin
    perform rota._check_parents(job_ids);
    v_held := rota._hold_jobs(job_ids);
    v_known := v_held.live || v_held.completed || v_held.failed;

    if cardinality(v_known) < cardinality(job_ids) then
        select min(u.id) into v_id
        from (
            select p.id from unnest(job_ids) as p(id)
            except
            select k.id from unnest(v_known) as k(id)
        ) as u;

        perform rota._refuse_no_job(v_id);
    end if;

    select s.id into v_id
    from (
        select j.id
        from rota.live_jobs as j
        where j.id = any(v_held.live) and j.schedule_type <> 'ONE_TIME'
        union all
        select f.id
        from rota.finished_jobs as f
        where f.id = any(v_held.completed || v_held.failed) and f.schedule_type <> 'ONE_TIME'
    ) as s
    order by s.id
    limit 1;

    if found then
        raise exception 'job % is a schedule, and no job can depend on one', v_id
            using errcode = 'RTV01',
                  hint = 'Let its handler enqueue them, with its finish (next).';
    end if;

    update rota.live_jobs as j
    set linked = true
    where j.id = any(v_held.live);

    return v_held;
end;
$$;

comment on function rota._hold_parents is
    'Keep jobs as they are on which others are to depend, and say how they are.';
