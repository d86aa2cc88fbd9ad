-- The trigger of each statement that writes rows of live_jobs (db/triggers.sql), whoever it is that
-- writes; changed is what it has written. Once a statement: a trigger of each row would cost a bulk
-- a sixth, and where rows change it would lock each of them anew.
--
-- Whatever makes a job with a key SCHEDULED, or moves its time, has a turn posted here
-- (_post_turns): so no statement can forget it.
create or replace function rota._watch_jobs()
    returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_id bigint;
    v_rule text;
    v_queues text[];
    v_priorities integer[];
    v_keys text[];
    v_run_ats timestamptz[];
    v_ids bigint[];
    v_begun boolean[];
begin
    perform
    from changed as j
    where not (
        case j.state
            when 'SCHEDULED' then num_nonnulls(
                j.token, j.worker, j.lease_until, j.started_at, j.cancel_requested_at, j.key
            ) = 0
            when 'RUNNING' then j.attempt > 0
                and num_nonnulls(j.token, j.worker, j.lease_until, j.started_at) = 4
            else false
        end
        and j.attempt between 0 and j.max_retries + 1
        and (j.schedule_type <> 'ONE_TIME' or j.name is null and isfinite(j.run_at))
    )
    limit 1;

    if not found then
        return null;
    end if;

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

    select
        array_agg(k.queue), array_agg(k.priority), array_agg(k.key), array_agg(k.run_at),
        array_agg(k.id), array_agg(k.counted)
    into v_queues, v_priorities, v_keys, v_run_ats, v_ids, v_begun
    from (
        select distinct on (j.queue, j.priority, j.key, j.counted)
            j.queue, j.priority, j.key, j.run_at, j.id, j.counted
        from changed as j
        where j.key is not null and j.state = 'SCHEDULED' and j.run_at < 'infinity'
        order by j.queue, j.priority, j.key, j.counted, j.run_at, j.id
    ) as k;

    if v_ids is not null then
        perform rota._post_turns(v_queues, v_priorities, v_keys, v_run_ats, v_ids, v_begun);
    end if;

    return null;
end;
$$;

comment on function rota._watch_jobs is
    'Refuse rows of live_jobs that no job can be, and post turns for those that have keys.';
