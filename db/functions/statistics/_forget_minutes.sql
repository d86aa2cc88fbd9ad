-- For _count_minutes, when minutes are counted again: after the clock was put back.
create or replace function rota._forget_minutes(from_time timestamptz, to_time timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    with gone as (
        delete from rota.minutes as m
        where m.minute >= from_time and m.minute < to_time
        returning *
    ), less as (
        select
            g.queue, g.task, g.outcome,
            sum(g.ended) as ended,
            sum(g.gave_up) as gave_up,
            sum(g.ran_seconds) as ran_seconds,
            sum(g.firsts) as firsts,
            sum(g.waited_seconds) as waited_seconds,
            rota._sum_histograms(array_agg(g.ran_histogram)) as ran_histogram,
            rota._sum_histograms(array_agg(g.waited_histogram)) as waited_histogram
        from gone as g
        group by g.queue, g.task, g.outcome
    )
    update rota.totals as t
    set ended = t.ended - l.ended,
        gave_up = t.gave_up - l.gave_up,
        ran_seconds = t.ran_seconds - l.ran_seconds,
        firsts = t.firsts - l.firsts,
        waited_seconds = t.waited_seconds - l.waited_seconds,
        ran_histogram = array(
            select u.number - u.less
            from unnest(t.ran_histogram, l.ran_histogram)
                with ordinality as u(number, less, place)
            order by u.place
        ),
        waited_histogram = array(
            select u.number - u.less
            from unnest(t.waited_histogram, l.waited_histogram)
                with ordinality as u(number, less, place)
            order by u.place
        )
    from less as l
    where (t.queue, t.task, t.outcome) = (l.queue, l.task, l.outcome);
end;
$$;

comment on function rota._forget_minutes is
    'Take the counts of a span of minutes away, and from the totals.';
