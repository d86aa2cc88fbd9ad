-- A key that is misspelt, or null because a variable was empty, must not make a filter match more
-- than was meant; nor may one that names nothing match everything. Times are read alike in every
-- session. A recurring job is steered only where the filter says so.
create or replace function rota._read_filter(filter jsonb, states text[])
    returns rota.job_filter
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
    set datestyle = 'ISO, YMD'
as $$
declare
    v_keys text[] := array['ids', 'state', 'queue', 'task', 'schedule_type', 'unique_key']
        || array['key', 'run_at_from', 'run_at_before']
        || case when 'SCHEDULED' <> all(states)
            then array['finished_at_from', 'finished_at_before']
        end;
    v_key record;
    v_filter rota.job_filter;
begin
    if filter is null or jsonb_typeof(filter) <> 'object' or filter = '{}' then
        raise exception 'filter must be a JSON object with at least one of %',
            array_to_string(v_keys, ', ')
            using errcode = 'RTV01';
    end if;

    for v_key in
        select k.key, jsonb_typeof(k.value) as type
        from jsonb_each(filter) as k(key, value)
        order by k.key collate "C"
    loop
        if v_key.key <> all(v_keys) then
            raise exception 'filter: % is not known', left(v_key.key, 100)
                using errcode = 'RTV01',
                      hint = format('It may have %s.', array_to_string(v_keys, ', '));
        end if;

        if v_key.type <> (case v_key.key when 'ids' then 'array' else 'string' end)
                and (v_key.key, v_key.type) <> ('state', 'array')
            or v_key.key = 'ids' and filter @? '$.ids[*] ? (@.type() != "number")'
        then
            raise exception 'filter: % must be %, not %', v_key.key,
                case v_key.key
                    when 'ids' then 'an array of ids'
                    when 'state' then 'a string or an array of strings'
                    else 'a string'
                end,
                left(filter ->> v_key.key, 100)
                using errcode = 'RTV01';
        end if;
    end loop;

    v_filter.queue := filter ->> 'queue';
    v_filter.task := filter ->> 'task';
    v_filter.unique_key := filter ->> 'unique_key';
    v_filter.key := filter ->> 'key';
    v_filter.schedule_type := coalesce(
        filter ->> 'schedule_type', case when not filter ? 'ids' then 'ONE_TIME' end
    );
    v_filter.state := case jsonb_typeof(filter -> 'state')
        when 'array' then array(select jsonb_array_elements_text(filter -> 'state'))
        when 'string' then array[filter ->> 'state']
        else states
    end;

    if not v_filter.state <@ states or v_filter.state = '{}'
        or v_filter.schedule_type not in ('ONE_TIME', 'INTERVAL', 'CRON')
    then
        raise exception 'filter: %', case
            when v_filter.state <@ states and v_filter.state <> '{}'
                then 'schedule_type must be ONE_TIME, INTERVAL or CRON'
            else format('state must be %s', array_to_string(states, ' or '))
        end
            using errcode = 'RTV01';
    end if;

    if jsonb_array_length(filter -> 'ids') > 10000 then
        raise exception 'filter: ids must have at most 10000 ids, not %',
            jsonb_array_length(filter -> 'ids')
            using errcode = 'RTV01';
    end if;

    begin
        v_filter.run_at_from := filter ->> 'run_at_from';
        v_filter.run_at_before := filter ->> 'run_at_before';
        v_filter.finished_at_from := filter ->> 'finished_at_from';
        v_filter.finished_at_before := filter ->> 'finished_at_before';
        v_filter.ids := case when filter ? 'ids'
            then array(select e::bigint from jsonb_array_elements_text(filter -> 'ids') as e)
        end;
    exception
        when data_exception then
            raise exception 'filter: %', left(sqlerrm, 200)
                using errcode = 'RTV01',
                      hint = 'ids are whole numbers; times are as in 2030-01-31T09:00:00Z.';
    end;

    return v_filter;
end;
$$;

comment on function rota._read_filter is
    'Read which jobs are meant; raise what is wrong with it.';
