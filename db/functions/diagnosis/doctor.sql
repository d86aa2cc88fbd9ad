-- Being stable it can change nothing, and all of it is of one snapshot. It locks no row, and reads
-- the live jobs once or twice, history hardly at all: to be asked now and then, by a person or a
-- probe, not every second. About the whole house, so it is for one without walls.
create or replace function rota.doctor()
    returns setof rota.finding
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now constant timestamptz := rota._now();
begin
    perform rota._check_no_wall('doctor');

    -- As everybody opens history: both tables in their order, before any partition.
    perform from rota.finished_jobs as f cross join rota.attempts as a where false;

    return query
        select f.*
        from (
            select q.* from rota._find_in_queues(v_now) as q
            union all
            select w.* from rota._find_in_workers(v_now) as w
            union all
            select s.* from rota._find_in_schedules(v_now) as s
            union all
            select o.* from rota._find_old_snapshots(v_now) as o
            union all
            select t.* from rota._find_in_tables(v_now) as t
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
