-- History is read only for a schedule whose last run left an error, and of it three attempts.
create or replace function rota._find_in_schedules(at timestamptz)
    returns setof rota.finding
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with known as materialized (
        select
            j.id,
            coalesce(j.name, j.id::text) as name,
            j.run_at,
            j.unsettled_since,
            rota._last_line(j.last_error) as error,
            j.state = 'SCHEDULED' and j.unsettled_since is null and not exists (
                select from rota.queues as q where q.name = j.queue and q.paused_at is not null
            ) as may_run,
            jsonb_build_object(
                'name', j.name, 'job_id', j.id, 'run', j.run, 'run_at', nullif(j.run_at, 'infinity')
            ) as about
        from rota.live_jobs as j
        join rota.schedules as s on s.job_id = j.id
    )
    select
        'warning' as severity,
        'schedule' as "check",
        format(
            'Schedule %s was due %s ago, and has not run.',
            k.name, rota._rough_span(at - k.run_at)
        ) as finding,
        format('select * from explain_job(%s)', k.id) as remedy,
        k.about as evidence
    from known as k
    where k.may_run and k.run_at < at - interval '5 minutes'

    union all
    select
        'warning',
        'unsettled schedule',
        format(
            'The next slot of schedule %s could not be computed %s ago: %s',
            k.name, rota._rough_span(at - k.unsettled_since), k.error
        ),
        'See what it names, or save the schedule anew.',
        k.about
    from known as k
    where k.unsettled_since is not null

    union all
    select
        'warning',
        'failing schedule',
        format('The last three attempts of schedule %s did not succeed: %s', k.name, k.error),
        format('select * from executions where job_id = %s order by finished_at desc', k.id),
        k.about
    from known as k
    where k.error is not null
        and k.unsettled_since is null
        and 3 = (
            select count(*) filter (where l.outcome in ('FAILED', 'TIMED_OUT', 'LOST'))
            from (
                select a.outcome
                from rota.attempts as a
                where a.job_id = k.id and a.outcome not in ('RELEASED', 'SKIPPED')
                order by a.finished_at desc
                limit 3
            ) as l
        )
$$;

comment on function rota._find_in_schedules is
    'Find schedules that do not run, or only fail.';
