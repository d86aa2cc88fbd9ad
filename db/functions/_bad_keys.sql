-- A misspelt key must not be a job that silently lacks an option.
create or replace function rota._bad_keys(job jsonb)
    returns text
    language sql
    stable
as $$
    select case
        when job - '{task,payload,queue,run_at,priority,max_retries,timeout,unique_key}'::text[]
                <> '{}'
            then (
                select format('%s is not an argument of enqueue_job', min(k.key))
                from jsonb_object_keys(job) as k(key)
                where k.key <> all (
                    '{task,payload,queue,run_at,priority,max_retries,timeout,unique_key}'
                )
            )
    end
$$;

comment on function rota._bad_keys is
    'Name a key of this object that enqueue_job does not know, or return null.';
