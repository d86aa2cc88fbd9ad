-- Looks only beyond the sequence, where nothing is, so that it costs a descent of each index, also
-- over the dead rows of a long history. The ids are read by a snapshot that is older than the look
-- at the sequence, so one that is given meanwhile raises no alarm.
create or replace function rota._id_ahead()
    returns bigint
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_next numeric := rota._next_job_id();
    v_from bigint;
begin
    if v_next > 9223372036854775807 then
        return null;
    end if;

    v_from := v_next;
    return greatest(
        (select max(j.id) from rota.live_jobs as j where j.id >= v_from),
        (select max(s.job_id) from rota.schedules as s where s.job_id >= v_from),
        (select max(f.id) from rota.finished_jobs as f where f.id >= v_from),
        (select max(e.job_id) from rota.attempts as e where e.job_id >= v_from),
        (select max(r.id) from rota.receipts as r where r.id >= v_from)
    );
end;
$$;

comment on function rota._id_ahead is
    'Return the highest id in use that the sequence of jobs has yet to give; null if none is.';
