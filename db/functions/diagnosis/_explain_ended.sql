-- One that went down with a parent comes back with the first of those that went down, at the top:
-- that is the one to retry, and retry_job refuses any below it. It may be behind a wall of the
-- caller: then no more is said of it than its id and state.
create or replace function rota._explain_ended(
    job rota.finished_jobs,
    at timestamptz,
    visible text[]
)
    returns rota.job_reason
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_parent bigint;
    v_top bigint;
    v_top_state text;
    v_top_queue text;
begin
    if job.state = 'CANCELLED' then
        with recursive above as (
            select w.ended_by as id, 1 as steps
            from rota.workflow_jobs as w
            where w.job_id = job.id and w.ended_by is not null
            union all
            select w.ended_by, a.steps + 1
            from above as a
            join rota.workflow_jobs as w on w.job_id = a.id
            where w.ended_by is not null
        )
        select a.id, f.state::text as state, f.queue into v_top, v_top_state, v_top_queue
        from above as a
        join rota.finished_jobs as f on f.id = a.id and f.state in ('FAILED', 'CANCELLED')
        order by a.steps desc
        limit 1;

        select w.ended_by into v_parent
        from rota.workflow_jobs as w
        where w.job_id = job.id;
    end if;

    return row(
        true,
        'ENDED',
        format(
            'It ended %s ago, and is %s%s', rota._rough_span(at - job.finished_at), job.state,
            case job.state
                when 'FAILED' then format(
                    ', in attempt %s of %s: %s', job.attempt, job.max_retries + 1,
                    rota._last_line(job.last_error)
                )
                when 'CANCELLED' then
                    coalesce(': ' || job.cancel_reason, '.')
                    || case
                        when v_top is null then ''
                        when v_top = v_parent then format(' (%s)', v_top_state)
                        else format('; it went down with job %s (%s)', v_top, v_top_state)
                    end
                else '.'
            end
        ),
        case
            when job.state not in ('FAILED', 'CANCELLED') then null
            when v_top is null then format('To run it again: select retry_job(%s)', job.id)
            when visible is null or v_top_queue = any(visible) then format(
                'To run it again, with all that went down with that job: select retry_job(%s)',
                v_top
            )
            else format(
                'It comes back when job %s, of a queue that you do not see, is retried.', v_top
            )
        end,
        jsonb_build_object(
            'state', job.state,
            'finished_at', job.finished_at,
            'attempt', job.attempt
        ) || case
            when v_top is null then '{}'
            else jsonb_build_object('ended_by', v_parent, 'went_down_with', v_top)
        end
    )::rota.job_reason;
end;
$$;

comment on function rota._explain_ended is
    'Say how a job ended, and what to retry.';
