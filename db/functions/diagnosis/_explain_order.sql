-- What comes before a job that is due. Counted by index, and no further than 10,000.
create or replace function rota._explain_order(
    job rota.live_jobs,
    at timestamptz,
    is_walled boolean
)
    returns setof rota.job_reason
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_higher bigint;
    v_earlier bigint;
begin
    select count(*) into v_higher
    from (
        select
        from (
            select distinct l.priority
            from rota.lanes as l
            where l.queue = job.queue and l.priority > job.priority
        ) as l
        cross join lateral (
            select
            from rota.live_jobs as o
            where o.queue = job.queue
                and rota._lane(o.key, o.priority) = l.priority
                and (o.counted and o.left_lane) is not true
                and o.run_at <= at
                and o.state = 'SCHEDULED'
            limit 10001
        ) as o
        limit 10001
    ) as h;

    select count(*) into v_earlier
    from (
        select
        from rota.live_jobs as o
        where o.queue = job.queue
            and rota._lane(o.key, o.priority) = rota._lane(job.key, job.priority)
            and (o.counted and o.left_lane) is not true
            and o.key is not distinct from job.key
            and (o.run_at, o.id) < (job.run_at, job.id)
            and o.state = 'SCHEDULED'
        limit 10001
    ) as e;

    if v_higher + v_earlier > 0 then
        return next row(
            false,
            'BEHIND_OTHERS',
            concat_ws(
                ' and ',
                case
                    when v_higher > 10000 then 'More than 10000 due jobs of a higher priority'
                    when v_higher > 0 then v_higher || ' due jobs of a higher priority'
                end,
                case
                    when v_earlier > 10000 then 'more than 10000 earlier ones of its own'
                    when v_earlier > 0 then v_earlier || ' earlier ones of its own'
                end
            ) || ' come first.',
            'Start more workers, or give other priorities.',
            jsonb_build_object('higher', v_higher, 'earlier', v_earlier)
        )::rota.job_reason;
    end if;

    return query
        select
            false,
            'OLD_SNAPSHOT',
            format(
                '%s keeps a snapshot that is %s old: claims begin at a cursor, and this job may'
                ' lie behind it.',
                case when is_walled then 'A transaction' else 'Session ' || a.pid end,
                rota._rough_span(at - a.xact_start)
            ),
            'It is found bit by bit; sooner, once that transaction has ended.',
            case when not is_walled then jsonb_build_object(
                'pid', a.pid, 'since', a.xact_start, 'username', a.usename
            ) end
        from pg_catalog.pg_stat_activity as a
        where a.backend_xmin is not null
            and a.pid <> pg_backend_pid()
            and a.backend_type = 'client backend'
            and a.xact_start < at - interval '1 minute'
            and job.run_at < at - interval '2 seconds'
        order by a.xact_start
        limit 1;
end;
$$;

comment on function rota._explain_order is
    'Say what claims find before a job that is due.';
