-- depends: 0090_requests

-- What ended in a span of time, for roll_up and for people. A finish adds no entry to an index of
-- this kind, so it costs it nothing that can be measured, where a btree costs a fifth; 40 KiB are a
-- week's, and it is complete to the page only because autovacuum adds what is new.
-- Here it is of the parent alone, so nothing is read or waited for: a week that is made from now on
-- has it from its parent, and the deploy gives it to those that are there (_index_history).
-- squawk-ignore require-concurrent-index-creation
create index if not exists finished_jobs_times on only rota.finished_jobs
    using brin (finished_at) with (pages_per_range = 32, autosummarize = on);

-- squawk-ignore require-concurrent-index-creation
create index if not exists times_of_attempts on only rota.attempts
    using brin (finished_at) with (pages_per_range = 32, autosummarize = on);
