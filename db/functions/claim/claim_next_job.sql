drop function if exists rota.claim_next_job(text[], text, interval, integer);

-- At the end of the type, so that statements which name its columns go on while this is deployed;
-- and in the transaction that replaces the function, because the one of before knows the type as it
-- was.
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.claimed_job'::regclass and a.attname = 'headers'
    ) then
        alter type rota.claimed_job add attribute headers jsonb;
    end if;

    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.claimed_job'::regclass and a.attname = 'key'
    ) then
        alter type rota.claimed_job add attribute key text;
    end if;
end;
$$;

-- Lanes, (queue, priority) pairs, are walked highest priority first; of lanes with one priority
-- the one whose oldest due job is oldest comes first, so no queue of a call starves. Inside a lane
-- jobs go by (run_at, id), each lane one index range with an equality prefix.
--
-- Why it is safe. The rows are picked and locked once, into an array, by "for no key update skip
-- locked": two claims never get the same row, a row with an open foreign-key insert against it is
-- not hidden, and no plan can lock more than the limit. The lock re-checks state and run_at on the
-- newest version of the row. The update then takes exactly the locked row versions; it is a
-- statement of its own, so its snapshot sees a version that was committed just before the lock.
-- If this process dies on any line, the transaction rolls back and the jobs are SCHEDULED still.
-- Nothing is locked after the job rows, and nobody waits for a row here: no deadlock.
--
-- The token is random, never the attempt's number: after a crash that loses a claim (asynchronous
-- commit, asynchronous standby) the attempt rewinds, and a zombie's number would match again.
--
-- A schedule among the rows has its misfire policy applied under the same lock (_settle_missed),
-- which takes its time. After an outage all of them are due, and a call that wanted to settle all
-- that it found would be cut off, and begin again. So a call that has something to hand out settles
-- for a tenth of a second, and one that has nothing (the policies gave up all it saw) for a second.
-- What it leaves in a lane is due still, and no job of a later lane overtakes it.
--
-- A lease is counted from when the job was found, which a slow scan may put off.
--
-- While an old snapshot pins finished jobs, the scan of a lane steps over all of them. A session
-- whose scan was slow keeps a cursor, and its next scans start there (claim/cursor/_note_scan). To
-- whoever reads on this is two calls: what lies behind the cursor is looked at now and then, and a
-- scan that was slow is noted.
--
-- With max_bytes a claim stops when the payloads and headers that it has taken pass that limit. A
-- row must be locked before its size counts (it might be gone, or another's), so a lane is taken in
-- slices: 100 jobs at first, then as many as fit if they are as large as those before. Locked in
-- vain, until this transaction ends, are less than 100 rows, but where large payloads begin behind
-- small ones.
--
-- A queue that lies behind a wall of the caller is to him as one without jobs: it is left out
-- before lanes are looked for.
--
-- A lane that has copies is looked at more than once, which finds nothing more. What a call that
-- finds nothing costs is what an idle system costs, so helpers are called only when there is
-- something to do.
create or replace function rota.claim_next_job(
    queues text[] default '{default}',
    worker text default null,
    lease interval default '60 seconds',
    max_jobs integer default 1,
    max_bytes bigint default null
)
    returns setof rota.claimed_job
    language plpgsql
    volatile
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := rota._now();
    v_claimed_at timestamptz;
    v_token uuid;
    v_queue text;
    v_priority integer;
    v_shared boolean;
    v_keyed boolean;
    v_limited integer;
    v_unkept boolean;
    v_most integer;
    v_counted boolean;
    v_taken rota.taken_turns;
    v_is_passed boolean;  -- the turn that follows is posted
    v_looks integer;
    v_width integer;  -- how many turns a look takes
    v_behind rota.looked_behind;
    v_began timestamptz;
    v_took interval;
    v_own_id boolean;
    v_found tid[];
    v_number integer;
    v_recurring boolean;
    v_settling_since timestamptz;
    v_more boolean;
    v_room integer := max_jobs;
    v_slice integer;  -- of a lane, to be taken at once; null: as many as there is room for
    v_bytes bigint;
    v_bytes_left bigint;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'jobs can be claimed at READ COMMITTED only, not at %',
            upper(current_setting('transaction_isolation') collate "C")
            using errcode = 'RTC04',
                  hint = 'At higher levels a claim that meets another one fails.';
    end if;

    if queues is null then
        raise exception 'queues must not be null'
            using errcode = 'RTV01';
    end if;

    if max_jobs is null or max_jobs not between 1 and 10000 then
        raise exception 'max_jobs must be from 1 to 10000, not %', coalesce(max_jobs::text, 'null')
            using errcode = 'RTV01';
    end if;

    if max_bytes is not null then
        if max_bytes < 1 then
            raise exception 'max_bytes must be at least 1, not %', max_bytes
                using errcode = 'RTV01';
        end if;

        v_bytes_left := max_bytes;
        v_slice := 100;
    end if;

    if not rota._is_lease(lease) then
        perform rota._refuse_lease(lease);
    end if;

    perform from rota.queue_walls;

    if found then
        queues := rota._within_walls(queues);
    end if;

    <<lanes>>
    for v_queue, v_priority, v_shared, v_keyed, v_limited, v_unkept, v_counted,
        v_looks
    in
        select
            l.queue, l.priority, l.cursor_since is not null, l.keyed is not null, q.limited,
            l.unkept, nullif(q.limited between 1 and 15, false), 0
        from rota.lanes as l
        left join rota.queues as q on q.name = l.queue
        where l.queue = any(claim_next_job.queues) and q.paused_at is null
        order by
            l.priority desc,
            case
                when l.keyed
                    then case
                        when random() < 0.5 then timestamptz '-infinity'
                        else timestamptz 'infinity'
                    end
                when cardinality(claim_next_job.queues) > 1
                    then rota._oldest_due(l.queue, l.priority, v_now, l.cursor_since is not null)
                else v_now
            end,
            case when l.keyed then random() end
    loop
        loop
            v_most := least(v_slice, v_room);

            if v_limited & 1 > 0 then
                v_most := least(v_most, rota._queue_room(v_queue, v_limited));
                continue lanes when v_most = 0;
            end if;

            if v_keyed then
                v_found := null;

                if v_most = 1 and coalesce(v_limited & 8 = 0, true) then
                    v_found := rota._take_turn(v_queue, v_priority, v_now, v_limited);

                    if cardinality(v_found) = 0 then
                        if v_limited & 2 > 0 then
                            perform rota._settle_limits(v_queue, v_limited);
                        end if;

                        continue lanes;
                    end if;
                end if;

                v_is_passed := v_found is not null;
                v_recurring := false;

                if not v_is_passed then
                    v_looks := v_looks + 1;
                    continue lanes when v_looks > 20
                        or v_limited & 2 > 0 and not rota._settle_limits(v_queue, v_limited);
                    v_width := case v_looks
                        when 1 then (v_most + 15) / 16
                        else rota._width(v_taken, v_most, v_width)
                    end;
                    v_taken := rota._take_turns(
                        v_queue, v_priority, v_now, v_most, v_width, v_limited,
                        case v_looks when 1 then '{}' else v_taken.refused end
                    );
                    continue lanes when v_taken.turns is null;
                    v_found := v_taken.places;
                    v_recurring := v_taken.recurring;

                    if v_found is null then
                        perform rota._pass_turns(v_queue, v_priority, v_taken, v_now)
                        where cardinality(v_taken.turns) > 0;
                        continue;
                    end if;
                end if;
            else
                v_behind := null;

                if v_shared or rota._has_lane_cursor(v_queue, v_priority) then
                    v_behind := rota._look_behind(
                        v_queue, v_priority, v_now, v_most, v_shared
                    );
                end if;

                v_own_id := pg_current_xact_id_if_assigned() is null;
                v_began := clock_timestamp();
                select array_agg(p.place), bool_or(p.recurring) into v_found, v_recurring
                from (
                    select j.ctid as place, j.schedule_type <> 'ONE_TIME' as recurring
                    from rota.live_jobs as j
                    where j.queue = v_queue
                        and rota._lane(j.key, j.priority) = v_priority
                        and (j.counted and j.left_lane) is not true
                        and (j.run_at, j.id) >= (
                            coalesce((v_behind.cursor).run_at, '-infinity'),
                            coalesce((v_behind.cursor).id, 0)
                        )
                        and j.run_at <= v_now
                        and j.state = 'SCHEDULED'
                    order by j.run_at, j.id
                    limit v_most - coalesce(cardinality(v_behind.places), 0)
                    for no key update skip locked
                ) as p;
                v_took := clock_timestamp() - v_began;

                if (v_behind.cursor).queue is not null
                    or rota._is_slow(v_took, coalesce(cardinality(v_found), 0))
                then
                    perform rota._note_scan(
                        v_behind.cursor, v_queue, v_priority, v_now, v_found, v_took, v_own_id,
                        v_most > coalesce(cardinality(v_behind.places), 0), v_shared
                    );
                end if;

                v_found := v_behind.places || v_found;
                v_recurring := v_recurring or v_behind.recurring;
                continue lanes when v_found is null;
            end if;

            v_more := v_keyed;

            if v_recurring or max_bytes is not null then
                v_number := cardinality(v_found);

                if v_recurring then
                    v_settling_since := coalesce(v_settling_since, clock_timestamp());
                    v_found := rota._settle_missed(v_found, v_now, v_settling_since);
                end if;

                v_more := v_keyed or cardinality(v_found) < v_number
                    or coalesce(v_number = v_slice, false);

                if max_bytes is not null then
                    select sum(
                        rota._most_bytes(j.payload) + coalesce(rota._most_bytes(j.headers), 0)
                    ) into v_bytes
                    from rota.live_jobs as j
                    where j.ctid = any(v_found);

                    if v_bytes >= v_bytes_left then
                        select f.places, f.bytes into v_found, v_bytes
                        from rota._first_bytes(v_found, v_bytes_left) as f;
                    end if;

                    v_bytes_left := v_bytes_left - coalesce(v_bytes, 0);

                    if v_bytes_left <= 0 then
                        v_room := cardinality(v_found);
                    end if;
                end if;
            end if;

            v_claimed_at := rota._now();
            v_token := coalesce(v_token, gen_random_uuid());

            if v_limited & 4 > 0 then
                perform rota._note_starts(v_queue, v_found, v_claimed_at, v_limited);
            end if;

            return query
                update rota.live_jobs as j
                set state = 'RUNNING',
                    token = v_token,
                    worker = coalesce(
                        claim_next_job.worker,
                        format('%s, pid %s', session_user, pg_backend_pid())
                    ),
                    lease_until = rota._later(v_claimed_at, lease),
                    attempt = j.attempt + 1,
                    started_at = v_claimed_at,
                    counted = v_counted,
                    left_lane = v_counted,
                    unkept = v_unkept
                from unnest(v_found) as f(place)
                where j.ctid = f.place
                returning
                    j.id, v_token, j.task::text, j.payload, j.queue::text, j.priority::integer,
                    j.attempt, j.max_retries::integer, j.scheduled_for,
                    j.lease_until::timestamptz, j.timeout::interval, j.run::bigint, j.headers,
                    j.key::text;

            if v_keyed and not v_is_passed then
                v_taken.places := v_found;
                perform rota._pass_turns(v_queue, v_priority, v_taken, v_now);
            end if;

            v_room := v_room - cardinality(v_found);
            exit lanes when v_room = 0;
            continue lanes when not v_more;

            exit lanes when v_room < max_jobs
                and clock_timestamp() > v_settling_since + interval '100 ms';
            continue lanes when clock_timestamp() > v_settling_since + interval '1 second';

            if v_bytes_left < max_bytes then
                v_slice := least(
                    v_room, v_bytes_left * (max_jobs - v_room) / (max_bytes - v_bytes_left) + 1
                );
            end if;
        end loop;
    end loop;
end;
$$;

comment on function rota.claim_next_job is
    'Lease the next due jobs of these queues to a worker, until there are max_jobs or their '
    'payloads and headers pass max_bytes; no rows when there are none.';
