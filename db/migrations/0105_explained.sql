-- depends: 0103_minutes

-- What explain_job says, and what doctor finds. Nothing is stored: both read what there is.
do $$
begin
    -- A reason that blocks keeps the job from running by itself; any other explains why it is late.
    if to_regtype('rota.job_reason') is null then
        create type rota.job_reason as (
            blocks boolean,
            code text,
            reason text,
            remedy text,
            evidence jsonb
        );
    end if;

    -- A transaction that is open, or prepared, and that may have locked rows of live_jobs.
    if to_regtype('rota.row_holder') is null then
        create type rota.row_holder as (
            xid xid,
            pid integer,          -- null of a prepared transaction
            gid text,             -- null of a session
            username text,
            application text,
            state text,
            since timestamptz,
            only_refers boolean,  -- perhaps by a foreign key only, which no claim passes by
            is_sure boolean
        );
    end if;
end;
$$;
