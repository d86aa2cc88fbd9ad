-- A commit can succeed while its reply is lost, so a worker may repeat a finish. The execution that
-- its token ended says what the first call was told: a row of attempts, or of a one-time job that
-- completed, its finished row. A recurring job may have many executions; the repeat is of a late
-- one, and the indexes are read from the latest backwards. Of a job of which nothing was kept a
-- receipt answers, without a run, for as long as there is one.
create or replace function rota._past_ending(job_id bigint, token uuid)
    returns rota.attempts
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_past rota.attempts;
begin
    select e.* into v_past
    from (
        select
            f.id,
            f.run,
            f.attempt,
            'SUCCEEDED'::rota.execution_outcome as outcome,
            f.worker,
            f.token,
            f.scheduled_for,
            f.started_at,
            f.finished_at,
            null::text as error,
            f.result,
            f.state::text::rota.job_state as job_state,
            null::timestamptz as next_run_at
        from rota.finished_jobs as f
        where f.id = _past_ending.job_id and f.token = _past_ending.token
        union all
        select
            a.job_id,
            a.run,
            a.attempt,
            a.outcome,
            a.worker,
            a.token,
            a.scheduled_for,
            a.started_at,
            a.finished_at,
            a.error,
            a.result,
            a.job_state,
            a.next_run_at
        from rota.attempts as a
        where a.job_id = _past_ending.job_id and a.token = _past_ending.token
    ) as e
    order by e.finished_at desc
    limit 1;

    if not found then
        select
            r.id, null, null, 'SUCCEEDED', null, r.token, r.first_due_at, r.started_at,
            r.finished_at, null, null, 'COMPLETED', null
        into v_past
        from rota.receipts as r
        where r.id = _past_ending.job_id and r.token = _past_ending.token
        limit 1;
    end if;

    return v_past;
end;
$$;

comment on function rota._past_ending is
    'Find the execution that was ended under this token, if any.';
