-- The trigger of each statement that writes rows of live_jobs (db/triggers.sql), whoever it is that
-- writes; changed is what it has written. Once a statement: a trigger of each row would cost a bulk
-- a sixth, and where rows change it would lock each of them anew.
create or replace function rota._refuse_impossible_jobs()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_id bigint;
    v_rule text;
begin
    select j.id, c.rule into v_id, v_rule
    from changed as j
    cross join lateral (
        select rota._impossible_job(
            j.state, j.schedule_type, j.attempt, j.max_retries, j.run_at, j.name,
            j.cancel_requested_at,
            num_nonnulls(j.token, j.worker, j.lease_until, j.started_at)
        ) as rule
    ) as c
    where c.rule is not null
    limit 1;

    if found then
        raise exception 'job % would break the rule %', v_id, v_rule
            using errcode = 'RTI01',
                  hint = 'No function of Rota does that: somebody writes to live_jobs by hand, '
                      'or this is a bug.';
    end if;

    return null;
end;
$$;

comment on function rota._refuse_impossible_jobs is
    'Refuse rows of live_jobs that no job can be.';
