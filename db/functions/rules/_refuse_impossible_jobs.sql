-- The trigger of each statement that changes rows of live_jobs (db/triggers.sql), in the table of
-- what it has written. Once a statement, for a trigger of each row would be felt by a claim of
-- 1,000, and would lock each of them anew.
create or replace function rota._refuse_impossible_jobs()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_id bigint;
    v_rule text;
begin
    select c.id, c.rule into v_id, v_rule
    from changed as j
    cross join lateral (
        select j.id, rota._impossible_job(
            j.state, j.schedule_type, j.attempt, j.max_retries, j.run_at, j.name,
            j.cancel_requested_at,
            num_nonnulls(j.token, j.worker, j.lease_until, j.started_at)
        ) as rule
    ) as c
    where c.rule is not null
    limit 1;

    if found then
        perform rota._raise_impossible(v_id, v_rule);
    end if;

    return null;
end;
$$;

comment on function rota._refuse_impossible_jobs is
    'Refuse a change of rows of live_jobs that makes one of them what no job can be.';
