-- How long next_run takes: psql "$DATABASE_URL" -f bench/next_run.sql
--
-- Each expression is asked for from 500 moments, seven hours apart, after 2097: the eight years
-- without a leap day lie before them. The fastest of five rounds counts, because whatever else the
-- machine does can only add to it. A refusal costs its search too, so it is measured as well.

create function pg_temp.microseconds(cron text, time_zone text)
    returns double precision
    language plpgsql
as $$
declare
    v_start timestamptz;
    v_best double precision := 'infinity';
begin
    for v_round in 1..5 loop
        v_start := clock_timestamp();
        for v_n in 1..500 loop
            begin
                perform rota.next_run(
                    cron, time_zone, timestamptz '2097-03-01 00:00Z' + v_n * interval '7 hours'
                );
            exception
                when sqlstate 'RTV02' then
                    null;
            end;
        end loop;
        v_best := least(v_best, extract(epoch from clock_timestamp() - v_start) / 500 * 1e6);
    end loop;

    return v_best;
end;
$$;

select
    e.kind,
    e.cron,
    e.zone,
    round(pg_temp.microseconds(e.cron, e.zone)) as "µs a call"
from (
    values
        ('ordinary', '* * * * *', 'UTC'),
        ('ordinary', '*/5 * * * *', 'Europe/Berlin'),
        ('ordinary', '30 2 * * *', 'Europe/Berlin'),
        ('ordinary', '0 9 * * 1-5', 'Europe/Berlin'),
        ('ordinary', '*/15 9-17 * * MON-FRI', 'America/New_York'),
        ('ordinary', '0 0 1,15 * *', 'Pacific/Apia'),
        ('ordinary', '0 0 LW * *', 'UTC'),
        ('ordinary', '0 12 * * 5#3', 'UTC'),
        ('ordinary', '*/10 * * * * *', 'UTC'),
        ('rare', '0 0 29 2 *', 'UTC'),
        ('rare', '0 0 29 2 1#5', 'UTC'),
        ('rare', '0 0 * 2 1#5', 'Europe/Berlin'),
        ('refused', '0 0 30 2 *', 'UTC'),
        ('refused', '0 0 */31,L-30 * 1#5', 'UTC'),
        ('refused', '*/5 2 * 3 SUNL', 'Europe/Berlin')
) as e (kind, cron, zone);
