-- For maintain. Holds the chore of roll_up, which alone writes minutes otherwise, until maintain
-- has ended; where that one is under way, it is left to the next call. An hour is thinned whole, a
-- day's worth of hours in one statement; what is kept goes as far back as history does, so that it
-- can be counted again (check_invariants), and eight weeks at least, which charts show.
create or replace function rota._thin_statistics(at timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_until constant timestamptz := date_trunc('hour', rota._later(at, -interval '8 days'), 'UTC');
    v_since constant timestamptz := clock_timestamp();
    v_kept timestamptz;
    v_from timestamptz;
    v_to timestamptz;
begin
    if not rota._take_chore('roll_up') then
        return;
    end if;

    select date_trunc('hour', least(s.kept_since, rota._later(at, -interval '57 days')), 'UTC')
    into v_kept
    from rota.settings as s;

    delete from rota.minutes as m
    where m.minute < v_kept;

    delete from rota.depths as d
    where d.minute < v_kept;

    loop
        select date_trunc('hour', least(
            (
                select min(m.minute) from rota.minutes as m
                where m.seconds = 60 and m.minute < v_until
            ),
            (
                select min(d.minute) from rota.depths as d
                where d.seconds = 60 and d.minute < v_until
            )
        ), 'UTC') into v_from;

        exit when v_from is null or clock_timestamp() > v_since + interval '1 second';
        v_to := least(v_from + interval '24 hours', v_until);

        with gone as (
            delete from rota.minutes as m
            where m.minute >= v_from and m.minute < v_to
            returning *
        )
        insert into rota.minutes (
            minute, seconds, queue, task, outcome, ended, gave_up, ran_seconds, firsts,
            waited_seconds, ran_histogram, waited_histogram
        )
        select
            date_trunc('hour', g.minute, 'UTC'), 3600, g.queue, g.task, g.outcome,
            sum(g.ended), sum(g.gave_up), sum(g.ran_seconds), sum(g.firsts), sum(g.waited_seconds),
            rota._sum_histograms(array_agg(g.ran_histogram)),
            rota._sum_histograms(array_agg(g.waited_histogram))
        from gone as g
        group by 1, g.queue, g.task, g.outcome;

        with gone as (
            delete from rota.depths as d
            where d.minute >= v_from and d.minute < v_to
            returning *
        )
        insert into rota.depths (
            minute, seconds, queue, scheduled, due, running, oldest_due_seconds
        )
        select
            date_trunc('hour', g.minute, 'UTC'), 3600, g.queue,
            max(g.scheduled), max(g.due), max(g.running), max(g.oldest_due_seconds)
        from gone as g
        group by 1, g.queue;
    end loop;
end;
$$;

comment on function rota._thin_statistics is
    'Make hours of old minutes, and remove those whose history is not kept any more.';
