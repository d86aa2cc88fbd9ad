-- depends: 0130_no_room

-- A job that waits for others is WAITING, at the end of its lane, where nobody looks: its run_at is
-- infinity. linked is true for a job on which others depend, or did, and else null: the finish of
-- any other job looks at nothing more.
--
-- The domains change in one block: as statements of their own PostgreSQL 18 refuses the second
-- ("cannot start a subtransaction when there are unprocessed inval messages"). What is in the
-- tables held to a narrower rule, so it is not read again (not valid).
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_constraint as c
        where c.contypid = 'rota.live_state'::regtype
            and strpos(pg_get_constraintdef(c.oid), 'WAITING') > 0
    ) then
        alter domain rota.job_state drop constraint known_state;
        alter domain rota.job_state add constraint known_state check (
            value in ('WAITING', 'SCHEDULED', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED')
        ) not valid;
        alter domain rota.live_state drop constraint live_means_not_ended;
        alter domain rota.live_state add constraint live_means_not_ended
            check (value in ('WAITING', 'SCHEDULED', 'RUNNING')) not valid;
    end if;

    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.live_jobs'::regclass and a.attname = 'linked'
    ) then
        alter table rota.live_jobs add column linked boolean;
    end if;
end;
$$;
