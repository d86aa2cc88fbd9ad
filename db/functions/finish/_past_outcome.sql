-- The second look of a finish that found no lease: the same call made before gets the answer that
-- the first one got. Nothing is locked, for executions are never updated. A receipt has no result,
-- so there any will do.
create or replace function rota._past_outcome(
    job_id bigint,
    token uuid,
    error text,
    result jsonb
)
    returns rota.job_outcome
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_past rota.attempts := rota._past_ending(job_id, token);
begin
    if v_past.job_id is null or v_past.outcome in ('LOST', 'RELEASED') then
        return row(job_id, 'LEASE_LOST', null)::rota.job_outcome;
    end if;

    if v_past.error is distinct from left(error, 10000)
        or v_past.run is not null and v_past.result is distinct from result
    then
        return row(job_id, 'CONFLICT', null)::rota.job_outcome;
    end if;

    return row(job_id, v_past.job_state, v_past.next_run_at)::rota.job_outcome;
end;
$$;

comment on function rota._past_outcome is
    'Say what a finish under this token was told before, or LEASE_LOST, or CONFLICT.';
