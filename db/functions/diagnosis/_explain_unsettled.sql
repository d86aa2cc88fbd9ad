-- Whom the first claim after a new limit waits for (_settle_limits): those that it noted and that
-- are open still, or if none came yet those that it would note. Where all have ended, what runs is
-- to be marked as counted, and somebody holds some of it. Nothing is said where the next claim
-- settles it by itself.
create or replace function rota._explain_unsettled(
    queue text,
    open_before text[],
    is_walled boolean
)
    returns setof rota.job_reason
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with counted as (
        select count(*) as number, array_agg(o.pid order by o.pid) as pids
        from rota._open_claims(open_before) as o
    )
    select
        true,
        'LIMIT_NOT_SETTLED',
        case
            when c.number = 0 then format(
                'A limit of queue %s is new, and jobs that run in it are locked by other'
                ' transactions, so that they cannot be counted yet.',
                queue
            )
            else format(
                'A limit of queue %s is new: nothing starts until %s transactions that were open'
                ' then have ended%s.',
                queue, c.number,
                case when not is_walled then
                    coalesce(': sessions ' || array_to_string(c.pids, ', '), '')
                end
            )
        end,
        case
            when c.number > 0 and not is_walled
                then 'Let them end; what they do: select * from pg_stat_activity, by pid'
            when c.number > 0 then 'Let them end.'
            else 'Let those transactions end: doctor() names queues with locked jobs.'
        end,
        jsonb_strip_nulls(jsonb_build_object(
            'queue', queue,
            'transactions', c.number,
            'pids', case when not is_walled then to_jsonb(c.pids) end
        ))
    from counted as c
    where c.number > 0 or open_before = '{}'
$$;

comment on function rota._explain_unsettled is
    'Say what keeps a limit that was just set from being in force.';
