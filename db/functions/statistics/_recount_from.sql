-- A clock that is behind what has been counted was put back: at a minute's counting it was past
-- that minute's end by more than the margin. So minutes that are over come again. How long it has
-- been back nobody knows; whoever rolls up looks more often than once an hour. An hour, once
-- thinned, is one row, so hours are counted whole. What was dropped is not there to be counted.
create or replace function rota._recount_from(until timestamptz, at timestamptz)
    returns timestamptz
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select case
        when at >= until + interval '15 s' then until
        else least(
            until,
            greatest(
                date_trunc('hour', at - interval '1 hour', 'UTC'),
                date_trunc(
                    'hour',
                    greatest(s.kept_since, s.completed_since, s.failed_since) + interval '1 hour',
                    'UTC'
                )
            )
        )
    end
    from rota.settings as s
$$;

comment on function rota._recount_from is
    'Tell up to when the counts of minutes hold, after the clock was put back too.';
