-- One that is about to end is waited for; one that would end, be cancelled or come back by a retry
-- waits for us. Completed jobs never change, so their rows are not locked. Lock order: what does
-- not wait, what waits, what has ended, each by id. A job that went from one of these places to
-- another between two of the looks is not held, and to take it now would be out of order: then all
-- is let go (the block's subtransaction) and taken again. Each turn means that a job has moved on.
--
-- ending: the caller ends one of them next, and so writes to attempts, which are opened before the
-- weeks of finished_jobs are.
create or replace function rota._hold_jobs(job_ids bigint[], ending boolean default false)
    returns rota.held_jobs
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_live bigint[];
    v_failed bigint[];
    v_held rota.held_jobs;
begin
    loop
        begin
            v_live := array(
                select j.id
                from rota.live_jobs as j
                where j.id = any(job_ids) and j.state <> 'WAITING'
                order by j.id
                for no key update
            );
            v_live := v_live || rota._hold_waits(job_ids);

            if ending then
                lock table only rota.attempts in row exclusive mode;
            end if;

            v_failed := array(
                select f.id
                from rota.finished_jobs as f
                where f.id = any(job_ids) and f.state <> 'COMPLETED'
                order by f.id
                for update
            );

            select
                array(select j.id from rota.live_jobs as j where j.id = any(job_ids)),
                array(
                    select f.id
                    from rota.finished_jobs as f
                    where f.id = any(job_ids) and f.state = 'COMPLETED'
                ),
                array(
                    select f.id
                    from rota.finished_jobs as f
                    where f.id = any(job_ids) and f.state <> 'COMPLETED'
                )
            into v_held;

            -- What is held cannot have left its place, so as many are the same.
            exit when cardinality(v_held.live) = cardinality(v_live)
                and cardinality(v_held.failed) = cardinality(v_failed);
            raise exception using errcode = 'RTI02';
        exception
            when sqlstate 'RTI02' then
                null;
        end;
    end loop;

    return v_held;
end;
$$;

comment on function rota._hold_jobs is
    'Keep jobs as they are until the transaction ends, and say which live, completed or failed.';
