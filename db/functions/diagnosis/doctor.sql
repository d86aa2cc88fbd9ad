-- Being stable it can change nothing, and all of it is of one snapshot. It locks no row. What waits
-- and runs it reads off the last census, if that is no older than max_age; else it counts live_jobs
-- itself, as it must where no worker runs, and on a standby of such a house. So a person learns how
-- things are now, and who asks again and again, a scrape or a page, says how old that may be.
drop function if exists rota.doctor();

create or replace function rota.doctor(max_age interval default '30 seconds')
    returns setof rota.finding
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now constant timestamptz := rota._now();
begin
    if max_age is null or max_age not between interval '0' and interval '1 day' then
        raise exception 'max_age must be from 0 to 1 day, not %',
            coalesce(rota._span_text(max_age), 'null')
            using errcode = 'RTV01';
    end if;

    perform rota._check_no_wall('doctor');

    -- As everybody opens history: both tables in their order, before any partition.
    perform from rota.finished_jobs as f cross join rota.attempts as a where false;

    return query
        select f.*
        from (
            select q.* from rota._find_in_queues(v_now, rota._census_at(v_now, max_age)) as q
            union all
            select w.* from rota._find_in_workers(v_now) as w
            union all
            select s.* from rota._find_in_schedules(v_now) as s
            union all
            select o.* from rota._find_old_snapshots(v_now) as o
            union all
            select t.* from rota._find_in_tables(v_now) as t
            union all
            select c.* from rota._find_in_statistics(v_now) as c
            union all
            select i.* from rota._find_in_server() as i
        ) as f
        order by
            array_position(array['critical', 'warning', 'note'], f.severity),
            f."check",
            f.finding;
end;
$$;

comment on function rota.doctor is
    'Say what is wrong with this installation, the worst first, and what to do about it; no rows'
    ' when all is well.';
