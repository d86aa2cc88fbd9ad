-- Safe as finish_job is, for the whole batch at once. A late or repeated pair is an outcome here,
-- not an error: the other results of the batch must not be lost with it. Of a pair that comes twice
-- the first counts; the second is a repeated finish, and gets the answer of one.
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
    set search_path = pg_catalog, pg_temp
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

    if coalesce(num_nonnulls(variadic errors), 0) = 0
        and rota._complete_jobs(job_ids, tokens, results)
    then
        return query
            select u.job_id, 'COMPLETED'
            from unnest(job_ids) as u(job_id);
        return;
    end if;

    v_ended := array(
        select e from rota._end_attempts(job_ids, tokens, errors, results) as e
    );

    return query
        select
            i.job_id,
            coalesce(n.state, (rota._past_outcome(i.job_id, i.token, i.error, i.result)).state)
        from (
            select
                u.*,
                row_number() over (partition by u.job_id, u.token order by u.place) = 1 as is_first
            from unnest(job_ids, tokens, errors, results)
                with ordinality as u(job_id, token, error, result, place)
        ) as i
        left join unnest(v_ended) as n
            on n.job_id = i.job_id and n.token = i.token and i.is_first
        order by i.place;
end;
$$;

comment on function rota.finish_jobs is
    'End a batch of running attempts; each pair gets its job''s new state, LEASE_LOST or CONFLICT.';
