-- Takes no lock on a row, waits for nobody and changes nothing: being stable, it could not, and all
-- of it is decided by the rows of one snapshot, that of the statement that asks. So it may be asked
-- of a standby, and of a job that somebody holds. Who holds it is read off the row (_row_holders).
-- A job behind a wall is one that there is not, found out by as many looks.
-- What it costs is a count or three of up to 10,000 rows by index, and a scan of live_jobs where
-- workers are there, but no census is of the last half minute: for a person who asks, not for each
-- page of a list.
create or replace function rota.explain_job(job_id bigint)
    returns setof rota.job_reason
    language plpgsql
    stable
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now constant timestamptz := rota._now();
    v_visible constant text[] := rota.visible_queues();
    v_job rota.live_jobs;
    v_ended rota.finished_jobs;
    v_receipt rota.receipts;
begin
    select j.* into v_job
    from rota.live_jobs as j
    where j.id = explain_job.job_id and (v_visible is null or j.queue = any(v_visible));

    if not found then
        select f.* into v_ended
        from rota.finished_jobs as f
        where f.id = explain_job.job_id and (v_visible is null or f.queue = any(v_visible));

        if not found then
            select r.* into v_receipt
            from rota.receipts as r
            where r.id = explain_job.job_id and (v_visible is null or r.queue = any(v_visible));
        end if;

        if v_receipt.id is not null then
            return next row(
                true,
                'ENDED',
                format(
                    'It ended %s ago, and is COMPLETED; its queue keeps no more of it.',
                    rota._rough_span(v_now - v_receipt.finished_at)
                ),
                null,
                jsonb_build_object('state', 'COMPLETED', 'finished_at', v_receipt.finished_at)
            )::rota.job_reason;
            return;
        end if;

        if v_ended.id is null then
            return next rota._explain_missing(explain_job.job_id, v_visible is not null);
            return;
        end if;

        return next rota._explain_ended(v_ended, v_now, v_visible);
        return;
    end if;

    if pg_is_in_recovery() or exists (
        select
        from pg_catalog.pg_settings as s
        where s.name = 'default_transaction_read_only' and s.reset_val = 'on'
    ) then
        return next row(
            true,
            'READ_ONLY',
            case when pg_is_in_recovery()
                then 'This server is a standby: nothing can be claimed here.'
                else 'Sessions can only read here, unless they ask for more'
                    ' (default_transaction_read_only): nothing is claimed.'
            end,
            case when pg_is_in_recovery()
                then 'Ask the primary.'
                else 'Turn default_transaction_read_only off, where it was turned on.'
            end,
            null
        )::rota.job_reason;
    end if;

    if v_job.state = 'RUNNING' then
        return query
            select r.* from rota._explain_running(v_job, v_now, v_visible is not null) as r;
        return;
    end if;

    return query select w.* from rota._explain_waiting(v_job, v_now, v_visible) as w;

    if not found then
        return next row(
            false,
            'NEXT',
            format('Nothing holds it up: the next claim from queue %s takes it.', v_job.queue),
            null,
            jsonb_build_object('due_since', v_job.run_at)
        )::rota.job_reason;
    end if;
end;
$$;

comment on function rota.explain_job is
    'Say in words why a job does not run, or that it does, and what to do about it.';
