-- Where there are several databases the id tells which of them has the job.
create or replace function rota._refuse_no_job(job_id bigint)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_elsewhere integer := rota._elsewhere(job_id);
begin
    if v_elsewhere is not null then
        raise exception 'there is no job % here: it is of shard %', job_id, v_elsewhere
            using errcode = 'RTN01',
                  hint = 'Jobs that depend on one another are in one database.';
    end if;

    raise exception 'there is no job %', coalesce(job_id::text, 'null')
        using errcode = 'RTN01';
end;
$$;

comment on function rota._refuse_no_job is
    'Raise the error of a job that is not there, or not there for the caller.';
