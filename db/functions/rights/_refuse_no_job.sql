create or replace function rota._refuse_no_job(job_id bigint)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'there is no job %', coalesce(job_id::text, 'null')
        using errcode = 'RTN01';
end;
$$;

comment on function rota._refuse_no_job is
    'Raise the error of a job that is not there, or not there for the caller.';
