-- For held one-time jobs that succeed, and of which nothing is kept (_unkept). A receipt takes the
-- place of both the finished row and the attempt.
create or replace function rota._leave_receipts(held tid[], at timestamptz)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    with gone as (
        delete from rota.live_jobs as j
        where j.ctid = any(held)
        returning
            j.id, j.token, j.queue, j.task, j.attempt, j.scheduled_for, j.started_at
    )
    insert into rota.receipts (
        id, token, queue, task, first_due_at, started_at, finished_at
    )
    select
        g.id, g.token, g.queue, g.task, case g.attempt when 1 then g.scheduled_for end,
        g.started_at, at
    from gone as g;
end;
$$;

comment on function rota._leave_receipts is
    'Complete jobs of which a receipt is all that is kept.';
