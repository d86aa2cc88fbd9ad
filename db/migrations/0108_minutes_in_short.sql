-- depends: 0107_upkeep

-- What charts of days and weeks add up: rows of minutes are wide, for their histograms. A week's
-- worth of 40 pairs of queue and task is read in a third of the time; written by roll_up alone.
-- The table is new, or small: a row a minute and pair.
-- squawk-ignore require-concurrent-index-creation
create index if not exists minutes_in_short
    on rota.minutes (minute) include (queue, outcome, ended, gave_up);
