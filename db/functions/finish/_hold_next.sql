-- Before a job ends that is followed by others (finish_job): the jobs outside on which those depend
-- are locked with it, and with what its end can reach, in one order. If more can be reached when
-- all is held, all is let go (the block's subtransaction), and taken again. Who holds no lease
-- locks nothing, and what lies behind a wall of the caller is refused before it is locked. What
-- follows the job may ask for its result, so its row is kept.
create or replace function rota._hold_next(
    items rota.workflow_item[],
    job_id bigint,
    token uuid
)
    returns boolean
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_recurring boolean;
    v_unkept boolean;
    v_parents bigint[];
    v_reached bigint[];
begin
    select j.schedule_type <> 'ONE_TIME', j.unkept into v_recurring, v_unkept
    from rota.live_jobs as j
    where j.id = _hold_next.job_id and j.token = _hold_next.token;

    if not found then
        return null;
    end if;

    v_parents := rota._named_parents(items);

    if v_parents <> '{}' then
        perform rota._check_parents(v_parents);
    end if;

    while v_parents <> '{}' loop
        v_reached := rota._reached(array[job_id], array[job_id]);

        begin
            perform rota._hold_jobs(v_parents || job_id || v_reached, ending => true);

            perform r.id
            from unnest(rota._reached(array[job_id], array[job_id])) as r(id)
            except
            select k.id
            from unnest(v_reached) as k(id);

            exit when not found;
            raise exception using errcode = 'RTI02';
        exception
            when sqlstate 'RTI02' then
                null;
        end;
    end loop;

    if v_unkept then
        update rota.live_jobs as j
        set unkept = null
        where j.id = _hold_next.job_id and j.token = _hold_next.token;
    end if;

    return v_recurring;
end;
$$;

comment on function rota._hold_next is
    'Lock what follows the end of a job, and tell whether the job is a schedule.';
