-- For roll_up, which has made sure that nothing more can end in these minutes, and alone writes
-- here. A success that ends a one-time job is its row in finished_jobs (0075), or its receipt where
-- nothing is kept; no job has both. Of every other attempt the queue and the task are those that
-- its job has now: it is live; or it ended with this very attempt, so its row has the same time,
-- and is in the same partition; or it ended later, and left a row or a receipt. None of them can be
-- gone before its attempt is counted, unless somebody removed it by hand, hence the '?'. How long a
-- job had waited is told by its first attempt, unless that was handed back.
create or replace function rota._count_minutes(from_time timestamptz, to_time timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform rota._forget_minutes(from_time, to_time);

    with ended as (
        select
            f.finished_at, f.queue, f.task, 'SUCCEEDED' as outcome, false as gave_up,
            f.started_at,
            case f.attempt when 1 then f.scheduled_for end as first_due_at
        from rota.finished_jobs as f
        where f.finished_at >= from_time and f.finished_at < to_time and f.token is not null
        union all
        select
            a.finished_at, coalesce(j.queue, '?'), coalesce(j.task, '?'), a.outcome::text,
            a.job_state = 'FAILED',
            a.started_at,
            case when a.attempt = 1 and a.outcome <> 'RELEASED' then a.scheduled_for end
        from rota.attempts as a
        left join lateral (
            select l.queue::text as queue, l.task::text as task
            from rota.live_jobs as l
            where l.id = a.job_id
            union all
            select f.queue, f.task
            from rota.finished_jobs as f
            where f.id = a.job_id and f.finished_at = a.finished_at
            union all
            select f.queue, f.task
            from rota.finished_jobs as f
            where f.id = a.job_id
            union all
            select r.queue, r.task
            from rota.receipts as r
            where r.id = a.job_id
            limit 1
        ) as j on true
        where a.finished_at >= from_time and a.finished_at < to_time
        union all
        select
            r.finished_at, r.queue, r.task, 'SUCCEEDED', false, r.started_at, r.first_due_at
        from rota.receipts as r
        where r.finished_at >= from_time and r.finished_at < to_time
    ), timed as (
        select
            e.*,
            greatest(date_part('epoch', e.finished_at - e.started_at), 0) as ran,
            case when e.first_due_at is not null
                then greatest(date_part('epoch', e.started_at - e.first_due_at), 0)
            end as waited
        from ended as e
    ), told_apart as (
        select
            date_bin('1 minute', t.finished_at, '2000-01-01 00:00:00+00') as minute,
            t.queue, t.task, t.outcome,
            case when t.started_at is not null then rota._bucket(t.ran) end as ran_bucket,
            rota._bucket(t.waited) as waited_bucket,
            count(*) as ended,
            count(*) filter (where t.gave_up) as gave_up,
            coalesce(sum(t.ran) filter (where t.started_at is not null), 0) as ran_seconds,
            count(t.waited) as firsts,
            coalesce(sum(t.waited), 0) as waited_seconds
        from timed as t
        group by 1, 2, 3, 4, 5, 6
    ), counted as (
        insert into rota.minutes (
            minute, seconds, queue, task, outcome, ended, gave_up, ran_seconds, firsts,
            waited_seconds, ran_histogram, waited_histogram
        )
        select
            t.minute, 60, t.queue, t.task, t.outcome,
            sum(t.ended), sum(t.gave_up), sum(t.ran_seconds), sum(t.firsts), sum(t.waited_seconds),
            rota._histogram(array_agg(t.ran_bucket), array_agg(t.ended)),
            rota._histogram(array_agg(t.waited_bucket), array_agg(t.ended))
        from told_apart as t
        group by t.minute, t.queue, t.task, t.outcome
        returning *
    )
    insert into rota.totals as o (
        queue, task, outcome, ended, gave_up, ran_seconds, firsts, waited_seconds, ran_histogram,
        waited_histogram
    )
    select
        c.queue, c.task, c.outcome,
        sum(c.ended), sum(c.gave_up), sum(c.ran_seconds), sum(c.firsts), sum(c.waited_seconds),
        rota._sum_histograms(array_agg(c.ran_histogram)),
        rota._sum_histograms(array_agg(c.waited_histogram))
    from counted as c
    group by c.queue, c.task, c.outcome
    on conflict (queue, task, outcome) do update
    set ended = o.ended + excluded.ended,
        gave_up = o.gave_up + excluded.gave_up,
        ran_seconds = o.ran_seconds + excluded.ran_seconds,
        firsts = o.firsts + excluded.firsts,
        waited_seconds = o.waited_seconds + excluded.waited_seconds,
        ran_histogram = rota._sum_histograms(array[o.ran_histogram, excluded.ran_histogram]),
        waited_histogram =
            rota._sum_histograms(array[o.waited_histogram, excluded.waited_histogram]);
end;
$$;

comment on function rota._count_minutes is
    'Count the attempts that ended in a span of minutes, by minute and in the totals.';
