-- Called only when a bulk failed to convert, so it may take its time: one exception block for
-- each value, none of which writes. What the server says of a value is about its own settings and
-- types; the caller is told what the value should have been.
create or replace function rota._unreadable_job(jobs jsonb)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_item record;
begin
    for v_item in
        select o.place - 1 as place, k.key, k.value
        from jsonb_array_elements(jobs) with ordinality as o(job, place)
        cross join lateral jsonb_each_text(
            case when jsonb_typeof(o.job) = 'object'
                then o.job
                else jsonb_build_object('', o.job)
            end
        ) as k(key, value)
        order by o.place
    loop
        begin
            case v_item.key
                when 'run_at' then
                    perform v_item.value::timestamptz;
                when 'priority', 'max_retries' then
                    perform v_item.value::integer;
                when 'timeout', 'unique_for' then
                    perform v_item.value::interval;
                when 'replace' then
                    perform v_item.value::boolean;
                when '' then
                    return format('jobs[%s]: a job must be an object', v_item.place);
                else
                    null;
            end case;
        exception
            when data_exception then
                return format('jobs[%s]: %s must be %s', v_item.place, v_item.key,
                    case v_item.key
                        when 'run_at' then 'a time, such as 2030-01-31T09:00:00Z'
                        when 'timeout' then 'an interval, such as 90 seconds'
                        when 'unique_for' then 'an interval, such as 90 seconds'
                        when 'replace' then 'true or false'
                        else 'an integer'
                    end
                );
        end;
    end loop;

    return 'jobs: a value does not convert to its type';
end;
$$;

comment on function rota._unreadable_job is
    'Name the first value of a bulk that does not convert to its type.';
