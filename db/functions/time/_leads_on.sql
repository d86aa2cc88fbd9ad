-- '1 month -29 days' is a day by comparison, for which a month has 30 days, and leads back in
-- February. February begins the shortest spans of any number of months, so what leads on from there
-- does so from everywhere. Written so that the planner puts it in the place of its call.
create or replace function rota._leads_on(span interval)
    returns boolean
    language sql
    immutable
as $$
    select span > interval '0'
        and timestamp '2001-02-01' + span > timestamp '2001-02-01'
$$;

comment on function rota._leads_on is
    'Tell whether a moment plus this interval is always later.';
