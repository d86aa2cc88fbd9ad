-- What follows a turn that _take_turn has taken, when its job is RUNNING: the same turn, behind
-- those of other keys, as long as a job of it is due; or one that waits for room, if this job took
-- the last. A producer who looks at the row meanwhile sees it as it was.
--
-- If no job is left the turn goes, under the arrival lock, after a look that begins when it is held
-- (_pass_turns). Many keys have one job at a time, so of a turn that nothing was taken behind so
-- far that is tried first. All else is left to that function.
create or replace function rota._pass_turn(
    queue text,
    priority integer,
    taken rota.taken_turn,
    at timestamptz
)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    for v_way in 1..2 loop
        if (v_way = 1) = (taken.passed > 0) then
            update rota.turns as t
            set ready_at = case taken.room when 1 then at + interval '1 minute' else at end,
                is_full = coalesce(taken.room = 1, false),
                passed = t.passed + 1
            where t.ctid = taken.turn
                and exists (
                    select
                    from rota.live_jobs as j
                    where j.queue = _pass_turn.queue
                        and rota._lane(j.key, j.priority)
                            = rota._lane(taken.key, _pass_turn.priority)
                        and (j.run_at, j.id) >= (taken.from_run_at, taken.from_id)
                        and j.run_at <= at
                        and j.key = taken.key
                        and j.state = 'SCHEDULED'
                );

            if found then
                return;
            end if;
        elsif pg_try_advisory_xact_lock(rota._arrival_class(), rota._arrival(queue, taken.key)) then
            delete from rota.turns as t
            where t.ctid = taken.turn
                and not exists (
                    select
                    from rota.live_jobs as j
                    where j.queue = _pass_turn.queue
                        and rota._lane(j.key, j.priority)
                            = rota._lane(taken.key, _pass_turn.priority)
                        and (j.run_at, j.id) >= (taken.from_run_at, taken.from_id)
                        and j.run_at < 'infinity'
                        and j.key = taken.key
                        and j.state = 'SCHEDULED'
                );

            if found then
                return;
            end if;
        end if;
    end loop;

    delete from rota.turns as t
    where t.ctid = taken.turn;

    perform rota._pass_turns(
        queue,
        priority,
        row(
            array[row(
                taken.key, taken.from_run_at, taken.from_id, taken.passed, taken.room,
                at + interval '1 minute', null, null
            )::rota.key_turn],
            null, 1, taken.places, null
        )::rota.taken_turns,
        at
    );
end;
$$;

comment on function rota._pass_turn is
    'Post the turn that follows the one which a claim of one job has taken.';
