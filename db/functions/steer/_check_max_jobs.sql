create or replace function rota._check_max_jobs(max_jobs integer)
    returns void
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if max_jobs is null or max_jobs not between 1 and 10000 then
        raise exception 'max_jobs must be from 1 to 10000, not %', coalesce(max_jobs::text, 'null')
            using errcode = 'RTV01';
    end if;
end;
$$;

comment on function rota._check_max_jobs is
    'Refuse to steer no job, or more at a time than a transaction should hold.';
