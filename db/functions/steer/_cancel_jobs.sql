-- All rows are locked at once, in the order of their ids, before the first is touched: so two
-- bulks, or a bulk and a batch of finishes, wait for each other and never deadlock. A claim or a
-- finish that came first is waited out, and what it made of the job decides; whether the filter
-- still matches is looked at on the row as it is then.
--
-- Those that wait for others come after, with all that their end and that of the others reaches.
-- One that was scheduled meanwhile, between the two locks, would be locked out of order: then all
-- is let go (the block's subtransaction), and taken again.
create or replace function rota._cancel_jobs(
    job_ids bigint[],
    reason text,
    at timestamptz,
    filter rota.job_filter default null
)
    returns setof rota.steered_job
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_held bigint[];
    v_linked boolean;
    v_waiting bigint[];
    v_ended bigint[];
    v_job rota.live_jobs;
    v_state text;
begin
    if length(reason) > 1000 then
        raise exception 'reason must have at most 1000 characters, not %', length(reason)
            using errcode = 'RTV01';
    end if;

    loop
        begin
            select array_agg(h.id), coalesce(bool_or(h.linked), false) into v_held, v_linked
            from (
                select j.id, j.linked
                from rota.live_jobs as j
                where j.id = any(job_ids)
                    and j.state <> 'WAITING'
                    and (filter is null or rota._matches(
                        filter, j.id, j.state, j.queue, j.task, j.schedule_type, j.unique_key,
                        j.key, j.run_at, null
                    ))
                order by j.id
                for no key update
            ) as h;

            exit when not v_linked and cardinality(v_held) = cardinality(job_ids);

            v_waiting := rota._hold_waits(job_ids || rota._reached(job_ids, job_ids));

            perform
            from rota.live_jobs as j
            where j.id = any(job_ids)
                and j.state <> 'WAITING'
                and (filter is null or rota._matches(
                    filter, j.id, j.state, j.queue, j.task, j.schedule_type, j.unique_key, j.key,
                    j.run_at, null
                ))
            having count(*) <> coalesce(cardinality(v_held), 0);

            if found then
                raise exception using errcode = 'RTI02';
            end if;

            v_waiting := array(
                select j.id
                from rota.live_jobs as j
                where j.id = any(array(
                        select w.id from unnest(v_waiting) as w(id)
                        intersect
                        select i.id from unnest(job_ids) as i(id)
                    ))
                    and (filter is null or rota._matches(
                        filter, j.id, j.state, j.queue, j.task, j.schedule_type, j.unique_key,
                        j.key, j.run_at, null
                    ))
                order by j.id
            );
            exit;
        exception
            when sqlstate 'RTI02' then
                null;
        end;
    end loop;

    for v_place in 1..coalesce(cardinality(v_held), 0) loop
        select j.* into v_job
        from rota.live_jobs as j
        where j.id = v_held[v_place];

        v_state := rota._cancel_live_job(v_job, reason, at);

        if v_state = 'CANCELLED' and v_job.linked then
            v_ended := v_ended || v_job.id;
        end if;

        return next row(v_job.id, v_job.queue, v_state, null, null)::rota.steered_job;
    end loop;

    if v_waiting <> '{}' then
        return query
        select j.id, j.queue::text, 'CANCELLED', null::timestamptz, null::text
        from rota.live_jobs as j
        where j.id = any(v_waiting);

        perform rota._retire_waiting(v_waiting, null, reason, at);
        v_ended := v_ended || v_waiting;
    end if;

    if v_ended is not null then
        perform rota._settle(v_ended, v_ended);
    end if;
end;
$$;

comment on function rota._cancel_jobs is
    'End those of these jobs that are scheduled or wait, and ask the running ones to end.';
