-- One ONE_TIME job for each slot of the range, which is what it is scheduled for. Its unique_key
-- names the slot, so a backfill that is repeated while the first one is live doubles nothing.
create or replace function rota.backfill_schedule(
    name text,
    starts_at timestamptz,
    ends_at timestamptz
)
    returns setof rota.enqueued_job
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_job rota.live_jobs := rota._lock_schedule(name);
    v_schedule rota.schedules;
    v_number bigint;
    v_slot timestamptz;
    v_made rota.enqueued_job;
    v_created integer := 0;
begin
    select s.* into v_schedule
    from rota.schedules as s
    where s.job_id = v_job.id;

    if starts_at is null or ends_at is null or starts_at >= ends_at
        or not isfinite(starts_at) or not isfinite(ends_at) or v_schedule.fixed_delay
    then
        raise exception '%', case
            when v_schedule.fixed_delay then 'a schedule with fixed_delay has no slots to backfill'
            else 'starts_at must be earlier than ends_at'
        end
            using errcode = 'RTV01';
    end if;

    v_schedule.starts_at := case
        when v_schedule.every is null then least(v_schedule.starts_at, starts_at)
        else v_schedule.starts_at
    end;
    v_slot := starts_at - interval '1 microsecond';
    v_number := rota._slots_between(v_schedule, v_slot, ends_at - interval '1 microsecond');

    if v_number is null or v_number > 1000 then
        raise exception 'the range holds % slots; backfill at most 1000 at a time',
            coalesce(v_number::text, 'too many')
            using errcode = 'RTV01';
    end if;

    for v_place in 1..v_number loop
        v_slot := rota._slot_after(v_schedule, v_slot);
        v_made := rota.enqueue_job(
            task => v_job.task,
            payload => v_job.payload,
            queue => v_job.queue,
            priority => v_job.priority,
            max_retries => v_job.max_retries,
            timeout => v_job.timeout,
            unique_key => format(
                'backfill of job %s for %s', v_job.id, replace(rota._utc_text(v_slot), '+00', '')
            ),
            headers => v_job.headers,
            key => v_job.key
        );

        if v_made.created then
            update rota.live_jobs as j
            set scheduled_for = v_slot
            where j.id = v_made.job_id;
        end if;

        v_created := v_created + v_made.created::integer;
        return next v_made;
    end loop;

    perform rota._record_action(
        'backfill_schedule', v_job.id, v_job.queue, name,
        affected => v_created,
        details => jsonb_build_object(
            'starts_at', rota._utc_text(starts_at), 'ends_at', rota._utc_text(ends_at)
        )
    );
end;
$$;

comment on function rota.backfill_schedule is
    'Add a job for each slot of a schedule from one time until before another.';
