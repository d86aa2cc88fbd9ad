-- Nobody changes a WAITING job, or the number of its open edges, but under the row of job_waits
-- that is locked here. History is opened first, for it may be written to, and nobody is to wait for
-- it who holds such a row (docs/inside.md).
create or replace function rota._hold_waits(job_ids bigint[])
    returns bigint[]
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    lock table only rota.finished_jobs in row exclusive mode;

    return array(
        select w.job_id
        from rota.job_waits as w
        where w.job_id = any(job_ids)
        order by w.job_id
        for no key update
    );
end;
$$;

comment on function rota._hold_waits is
    'Lock those of these jobs that wait for others, and name them.';
