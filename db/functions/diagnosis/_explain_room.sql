-- Of a queue as a whole (key null), or of a key in it. What runs is counted by the index of what
-- takes room.
create or replace function rota._explain_room(
    queue text,
    key text,
    max_running integer,
    max_starts integer,
    starts_period interval,
    cells timestamptz[],
    starts integer[],
    at timestamptz
)
    returns setof rota.job_reason
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_name constant text := case when key is null then 'Queue ' || queue else 'Key ' || key end;
    v_door constant text := case
        when key is null then format('configure_queue(%L', queue)
        else format('configure_key(%L, %L', queue, key)
    end;
    v_evidence constant jsonb := jsonb_strip_nulls(jsonb_build_object('queue', queue, 'key', key));
    v_running bigint;
    v_jobs bigint[];
    v_left integer;
    v_opens_at timestamptz;
begin
    if max_running is not null then
        select count(*), (array_agg(o.id order by o.id))[:10] into v_running, v_jobs
        from rota.live_jobs as o
        where o.queue = _explain_room.queue
            and (_explain_room.key is null or o.key = _explain_room.key)
            and o.counted
            and o.state = 'RUNNING';

        if v_running >= max_running then
            return next row(
                true,
                case when key is null then 'QUEUE_FULL' else 'KEY_FULL' end,
                format(
                    '%s runs %s of %s: %s %s%s.',
                    v_name, v_running, max_running,
                    case when v_running = 1 then 'job' else 'jobs' end,
                    array_to_string(v_jobs, ', '),
                    case when v_running > 10 then ', ...' end
                ),
                format(
                    'Let one end, or raise the limit: select %s, max_running => %s)',
                    v_door, v_running + 1
                ),
                v_evidence || jsonb_build_object(
                    'running', v_running, 'max_running', max_running, 'jobs', v_jobs
                )
            )::rota.job_reason;
        end if;
    end if;

    if max_starts is not null then
        select l.number, l.opens_at into v_left, v_opens_at
        from rota._starts_left(
            max_starts, starts_period, cells, _explain_room.starts, at
        ) as l;

        if v_left = 0 then
            return next row(
                true,
                case when key is null then 'QUEUE_WINDOW' else 'KEY_WINDOW' end,
                format(
                    '%s started %s of %s in %s; the next may start at %s, in %s.',
                    v_name, max_starts, max_starts, rota._span_text(starts_period),
                    rota._utc_text(v_opens_at), rota._rough_span(v_opens_at - at)
                ),
                format(
                    'Wait, or raise the limit: select %s, max_starts => %s)',
                    v_door, max_starts + 1
                ),
                v_evidence || jsonb_build_object(
                    'max_starts', max_starts,
                    'starts_period', rota._span_text(starts_period),
                    'opens_at', v_opens_at
                )
            )::rota.job_reason;
        end if;
    end if;
end;
$$;

comment on function rota._explain_room is
    'Say whether a queue, or a key in it, runs or has started as many as it may.';
