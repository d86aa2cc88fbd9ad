-- For a claim that is bounded in bytes, on the rows of a lane that it has locked: takes more of the
-- lane while there is room, and leaves what is too much. A row must be locked before its size
-- counts (it might be gone, or another's), so they are locked in slices: few at first, then as many
-- as fit if the others are like those. Locked in vain, until the claim's transaction ends, are
-- therefore fewer rows than the first slice has; more only where large payloads begin behind small
-- ones.
--
-- Where what is stored tells that a slice may not fit, its payloads are turned into text one by
-- one, as they will be sent, until one passes the limit, which is the last that is taken. So no
-- payload is unpacked that is not claimed, and at least one job always is.
-- Locks as claim_next_job does, in its order, on from the last row that it has found.
create or replace function rota._fit_bytes(
    inout places tid[],
    inout recurring boolean,
    inout bytes bigint,  -- which these have at most
    queue text,
    priority integer,
    at timestamptz,
    room integer,
    max_bytes bigint
)
    returns record
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_generic_plan
    set jit = off
    set enable_seqscan = off
as $$
declare
    v_slice tid[];
    v_recurring boolean;
    v_slice_bytes bigint := bytes;
    v_counted integer := 0;
    v_fits bigint;
begin
    bytes := 0;

    loop
        if bytes + v_slice_bytes > max_bytes then
            for v_place in v_counted + 1..cardinality(places) loop
                select bytes + octet_length(j.payload::text) into bytes
                from rota.live_jobs as j
                where j.ctid = places[v_place];

                if bytes >= max_bytes then
                    places := places[:v_place];
                    return;
                end if;
            end loop;
        else
            bytes := bytes + v_slice_bytes;
        end if;

        v_counted := cardinality(places);
        v_fits := least(
            room - v_counted, (max_bytes - bytes) / greatest(bytes / v_counted, 1) + 1
        );
        exit when v_fits <= 0;

        select array_agg(p.place), bool_or(p.recurring), sum(p.bytes)
        into v_slice, v_recurring, v_slice_bytes
        from (
            select
                j.ctid as place,
                j.schedule_type <> 'ONE_TIME' as recurring,
                rota._most_bytes(j.payload) as bytes
            from rota.live_jobs as j
            where j.queue = _fit_bytes.queue
                and j.priority = _fit_bytes.priority
                and (j.run_at, j.id) > (
                    select l.run_at, l.id from rota.live_jobs as l where l.ctid = places[v_counted]
                )
                and j.run_at <= at
                and j.state = 'SCHEDULED'
            order by j.run_at, j.id
            limit v_fits
            for no key update skip locked
        ) as p;

        exit when v_slice is null;
        places := places || v_slice;
        recurring := recurring or v_recurring;
    end loop;
end;
$$;

comment on function rota._fit_bytes is
    'Take as many due jobs of a lane as there is room for and their payloads do not pass a limit.';
