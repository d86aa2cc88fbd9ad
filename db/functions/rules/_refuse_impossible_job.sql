-- The trigger of each row that comes into live_jobs (db/triggers.sql): it looks at the row alone,
-- whoever has written it.
create or replace function rota._refuse_impossible_job()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_rule text := rota._impossible_job(
        new.state, new.schedule_type, new.attempt, new.max_retries, new.run_at, new.name,
        new.cancel_requested_at,
        num_nonnulls(new.token, new.worker, new.lease_until, new.started_at)
    );
begin
    if v_rule is not null then
        perform rota._raise_impossible(new.id, v_rule);
    end if;

    return new;
end;
$$;

comment on function rota._refuse_impossible_job is
    'Refuse a new row of live_jobs that no job can be.';
