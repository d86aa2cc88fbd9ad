-- Keys whose turn comes first: those of a higher priority, and of the job's own those that have
-- been ready for longer than its key. Counted by index, and no further than 10,000 turns.
create or replace function rota._explain_turns(job rota.live_jobs, at timestamptz)
    returns setof rota.job_reason
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_ready_at timestamptz;
    v_higher bigint;
    v_before bigint := 0;
begin
    select count(*) into v_higher
    from (
        select distinct h.key
        from (
            select t.key
            from (
                select distinct l.priority
                from rota.lanes as l
                where l.queue = job.queue and l.keyed and l.priority > job.priority
            ) as l
            cross join lateral (
                select t.key
                from rota.turns as t
                where t.queue = job.queue
                    and t.priority = l.priority
                    and t.ready_at <= at
                    and t.ready_at < 'infinity'
                    and t.from_run_at <= at
                limit 10000
            ) as t
            limit 10000
        ) as h
    ) as k;

    if job.key is not null then
        select min(t.ready_at) into v_ready_at
        from rota.turns as t
        where t.queue = job.queue
            and t.key = job.key
            and t.priority = job.priority
            and t.from_run_at <= at;

        select count(*) into v_before
        from (
            select distinct b.key
            from (
                select t.key
                from rota.turns as t
                where t.queue = job.queue
                    and t.priority = job.priority
                    and t.ready_at < least(v_ready_at, at)
                    and t.ready_at < 'infinity'
                    and t.key <> job.key
                    and t.from_run_at <= at
                limit 10000
            ) as b
        ) as k;
    end if;

    if v_higher + v_before > 0 then
        return next row(
            false,
            'KEYS_TAKE_TURNS',
            concat_ws(
                ' and ',
                case when v_higher > 0 then v_higher || ' keys of a higher priority' end,
                case when v_before > 0
                    then v_before || ' keys of its priority that are ready for longer'
                end
            ) || ' have their turn before it.',
            'Start more workers; a key that has many jobs does not delay it.',
            jsonb_strip_nulls(jsonb_build_object(
                'key', job.key, 'higher', v_higher, 'before', v_before
            ))
        )::rota.job_reason;
    end if;
end;
$$;

comment on function rota._explain_turns is
    'Say how many keys have their turn before a job that is due.';
