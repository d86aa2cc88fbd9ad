drop function if exists rota._bad_job(
    text, jsonb, text, timestamptz, integer, integer, interval, text, jsonb
);

-- One place says what a job may look like, for a single job, for a bulk of them and for a
-- schedule. The CHECKs of live_jobs refuse the same, but cannot tell the caller what to mend.
-- Written so that the planner can inline it. Times stay within the years that every client
-- language can hold.
create or replace function rota._bad_job(
    task text,
    payload jsonb,
    queue text,
    run_at timestamptz,
    priority integer,
    max_retries integer,
    timeout interval,
    unique_key text,
    headers jsonb,
    key text
)
    returns text
    language sql
    stable
as $$
    select case
        when task is null or length(task) not between 1 and 200
            then format('task must have 1 to 200 characters, not %s', coalesce(length(task), 0))
        when task ~ '[[:cntrl:]]'
            then 'task must not contain control characters'
        when payload is null
            then 'payload must not be null'
        when rota._bad_queue(queue) is not null
            then rota._bad_queue(queue)
        when run_at not between '0001-01-02 00:00:00+00' and '9998-12-31 00:00:00+00'
            then format(
                'run_at must lie between the years 1 and 9998, not at %s', rota._utc_text(run_at)
            )
        when priority is null or priority not between -100 and 100
            then format(
                'priority must be from -100 to 100, not %s', coalesce(priority::text, 'null')
            )
        when max_retries not between 0 and 1000
            then format('max_retries must be from 0 to 1000, not %s', max_retries)
        when timeout > interval '366 days' or not rota._leads_on(timeout)
            then format(
                'timeout must be more than 0 and at most 366 days, not %s',
                rota._span_text(timeout)
            )
        when unique_key is not null and length(unique_key) not between 1 and 500
            then format('unique_key must have 1 to 500 characters, not %s', length(unique_key))
        when key is not null and length(key) not between 1 and 200
            then format('key must have 1 to 200 characters, not %s', length(key))
        when headers is not null
            then rota._bad_headers(headers)
    end
$$;

comment on function rota._bad_job is
    'Say what is wrong with a job that somebody wants to enqueue, or return null.';
