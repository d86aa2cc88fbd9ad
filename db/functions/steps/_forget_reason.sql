-- Of a job whose row the caller has locked, and which goes on. What it was handed back for is no
-- error that it would have met; an error of before, whose place that took, is in its executions.
create or replace function rota._forget_reason(job_id bigint, reason text)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    update rota.live_jobs as j
    set last_error = null
    where j.id = job_id and j.last_error = reason;
end;
$$;

comment on function rota._forget_reason is
    'Clear the last error of a job where it says what the job waited for.';
