-- A scan that is slow steps over rows that nobody wants. To find a job and lock it takes its time,
-- too.
create or replace function rota._is_slow(took interval, jobs integer)
    returns boolean
    language sql
    immutable
as $$
    select took > interval '1 ms' + jobs * interval '20 us'
$$;

comment on function rota._is_slow is
    'Tell whether a scan took long for the number of jobs that it found.';
