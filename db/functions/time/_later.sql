-- In UTC every day has 24 hours, as in every delay, lease and timeout of Rota. On timestamptz a day
-- would be one of the session's time zone, whose clocks may change in it. Total for what is checked
-- before: delays, leases and periods are bounded. The zone is UTC, written as an offset: a claim
-- would feel it if a name were looked up for each job.
create or replace function rota._later(moment timestamptz, span interval)
    returns timestamptz
    language sql
    immutable
as $$
    select (moment at time zone interval '0' + span) at time zone interval '0'
$$;

comment on function rota._later is
    'Give the moment that comes so much later, wherever the session is.';
