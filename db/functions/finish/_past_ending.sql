-- A commit can succeed while its reply is lost, so a worker may repeat a finish. The execution
-- that its token ended says what the first call was told. A recurring job may have many
-- executions; the repeat is of a late one, and the index is read from the latest backwards.
create or replace function rota._past_ending(job_id bigint, token uuid)
    returns rota.attempts
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select e.*
    from rota.attempts as e
    where e.job_id = _past_ending.job_id and e.token = _past_ending.token
    order by e.finished_at desc
    limit 1
$$;

comment on function rota._past_ending is
    'Find the execution that was ended under this token, if any.';
