-- Safe as finish_job is, and in one statement for the whole batch. A late or repeated pair is an
-- outcome here, not an error: the other results of the batch must not be lost with it.
create or replace function rota.finish_jobs(
    job_ids bigint[],
    tokens uuid[],
    errors text[] default null,
    results jsonb[] default null
)
    returns setof rota.finish_outcome
    language plpgsql
    volatile
    security definer
    set search_path = ''
    set enable_nestloop = off
as $$
declare
    v_ended rota.ended_attempt[];
begin
    if cardinality(job_ids) is distinct from cardinality(tokens)
        or cardinality(coalesce(errors, '{}')) not in (0, cardinality(job_ids))
        or cardinality(coalesce(results, '{}')) not in (0, cardinality(job_ids))
    then
        raise exception 'job_ids, tokens, errors and results must have the same length'
            using errcode = 'RTV01';
    end if;

    v_ended := array(
        select e from rota._end_attempts(job_ids, tokens, errors, results) as e
    );

    return query
        select
            i.job_id,
            case
                when n.job_id is not null then n.state
                when p.job_id is null or p.outcome in ('LOST', 'RELEASED') then 'LEASE_LOST'
                when p.error is distinct from left(i.error, 10000)
                    or p.result is distinct from i.result then 'CONFLICT'
                else p.job_state
            end
        from unnest(job_ids, tokens, errors, results)
            with ordinality as i(job_id, token, error, result, place)
        left join unnest(v_ended) as n on n.job_id = i.job_id and n.token = i.token
        left join lateral (
            select e.* from rota._past_ending(i.job_id, i.token) as e where n.job_id is null
        ) as p on true
        order by i.place;
end;
$$;

comment on function rota.finish_jobs is
    'End a batch of running attempts; each pair gets its job''s new state, LEASE_LOST or CONFLICT.';
