-- For who holds no lease: the same call made before, whose reply was lost, gets the first answer.
create or replace function rota._released_before(job_id bigint, token uuid)
    returns rota.job_outcome
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_past rota.attempts := rota._past_ending(job_id, token);
begin
    if v_past.job_id is null or v_past.outcome not in ('RELEASED', 'CANCELLED') then
        perform rota._refuse_lost_lease(job_id);
    end if;

    return row(v_past.job_id, v_past.job_state, v_past.next_run_at)::rota.job_outcome;
end;
$$;

comment on function rota._released_before is
    'Say what became of a job that was handed back under this token, or refuse a lost lease.';
