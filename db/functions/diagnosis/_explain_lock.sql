-- Behind a wall nobody is named, for it may be anybody.
create or replace function rota._explain_lock(
    job rota.live_jobs,
    at timestamptz,
    blocks boolean,
    consequence text,
    is_walled boolean
)
    returns setof rota.job_reason
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        blocks and not h.only_refers,
        'LOCKED',
        case
            when is_walled then 'Another transaction holds its row'
            when h.gid is not null then format(
                'The prepared transaction %L of %s holds its row, for %s',
                h.gid, h.username, rota._rough_span(at - h.since)
            )
            else format(
                '%s %s (%s), %s, holds its row%s',
                case when h.is_sure then 'Session' else 'Perhaps session' end,
                h.pid,
                concat_ws(', ', h.username, h.application),
                coalesce(h.state, 'in a state that this role may not see'),
                ', for ' || rota._rough_span(at - h.since)
            )
        end
        || case when h.only_refers
            then ', perhaps only by a foreign key, which stops nobody.'
            else format(': %s.', consequence)
        end,
        case
            when is_walled then 'Ask whoever runs this database who that is.'
            when h.gid is not null
                then format('commit prepared %1$L, or rollback prepared %1$L', h.gid)
            else format('Let it end, or: select pg_terminate_backend(%s)', h.pid)
        end,
        case when not is_walled then to_jsonb(h) - 'xid' end
    from (
        select distinct on (h.pid, h.gid) h.*
        from rota._row_holders(job.id) as h
        order by h.pid, h.gid
    ) as h
$$;

comment on function rota._explain_lock is
    'Say who holds the row of a job, if anybody does.';
