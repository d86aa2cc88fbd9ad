-- Ids of the time before this database was a shard are its own, whatever number they have.
create or replace function rota._elsewhere(job_id bigint)
    returns integer
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select (job_id % 1024)::integer
    from rota.settings as s
    where s.shard <> job_id % 1024 and job_id > s.ids_before
$$;

comment on function rota._elsewhere is
    'Say in which other database a job of this id would be; null where it would be here.';
