"""Mistakes that somebody could make in Rota, each as a change of its text, and who would notice."""

from dataclasses import dataclass

CLAIM = "db/functions/claim/claim_next_job.sql"
BEHIND = "db/functions/claim/cursor/_look_behind.sql"
NEWEST = "db/functions/claim/cursor/_newest_cursor.sql"
NOTE = "db/functions/claim/cursor/_note_scan.sql"
TIDY = "db/functions/claim/cursor/_tidy_cursors.sql"
END = "db/functions/finish/_end_attempts.sql"
COMPLETE = "db/functions/finish/_complete_jobs.sql"
TAKE_TURNS = "db/functions/turns/_take_turns.sql"
TAKE_TURN = "db/functions/turns/_take_turn.sql"
PASS_TURNS = "db/functions/turns/_pass_turns.sql"
POST_TURNS = "db/functions/turns/_post_turns.sql"
ROOM_OF_KEYS = "db/functions/limits/_room_of_keys.sql"
HEAD_OF_KEY = "db/functions/limits/_head_of_key.sql"
QUEUE_ROOM = "db/functions/limits/_queue_room.sql"
SETTLE = "db/functions/limits/_settle_limits.sql"
LIMITS_CHANGED = "db/functions/limits/_limits_changed.sql"
STARTS_LEFT = "db/functions/limits/_starts_left.sql"
ADD_STARTS = "db/functions/limits/_add_starts.sql"
SETTLE_EDGES = "db/functions/dependencies/_settle.sql"
RETIRE_WAITING = "db/functions/dependencies/_retire_waiting.sql"
HOLD_JOBS = "db/functions/dependencies/_hold_jobs.sql"
HOLD_WAITS = "db/functions/dependencies/_hold_waits.sql"
HOLD_PARENTS = "db/functions/enqueue/_hold_parents.sql"
ADD_WORKFLOW = "db/functions/enqueue/_add_workflow.sql"
REVIVABLE = "db/functions/steer/_revivable.sql"
CANCEL_JOBS = "db/functions/steer/_cancel_jobs.sql"
FINISH_JOB = "db/functions/finish/finish_job.sql"
AWAIT = "db/functions/steps/await_event.sql"
EMIT = "db/functions/steps/emit_event.sql"

COLUMNS = "tests/functions/test_every_column.py"
CLAIMS = "tests/functions/test_claim.py"
CURSOR = "tests/functions/test_cursor.py"
SHARED = "tests/functions/test_shared_cursor.py"
FINISHES = "tests/functions/test_finish.py"
CANCELS = "tests/functions/test_cancel_and_retry.py"
IMPOSSIBLE = "tests/functions/test_rules.py"
ENQUEUES = "tests/functions/test_enqueue.py"
HEADERS = "tests/functions/test_headers.py"
TRACES = "tests/client/test_tracing.py"
WORKER_TRACES = "tests/worker/test_tracing.py"
WEEKS = "tests/concurrency/test_weeks.py"
LOCKS = "tests/concurrency/test_lock_order.py"
UPKEEP = "tests/functions/test_upkeep.py"
QUEUES = "tests/functions/test_queues.py"
WAKING = "tests/functions/test_waking.py"
RULES = "tests/test_house_rules.py"
RACES = "tests/concurrency/test_races.py"
TURN_RACES = "tests/concurrency/test_turn_races.py"
TURNS = "tests/functions/test_turns.py"
WORKFLOWS = "tests/functions/test_workflows.py"
STEPS_OF_JOBS = "tests/functions/test_steps.py"
EVENTS = "tests/functions/test_events.py"
PLANS = "tests/functions/test_plans.py"
SETTLING_RACES = "tests/concurrency/test_settling_races.py"
COUNTS = "tests/schedules/test_slot_counts.py"
LIFE = "tests/schedules/test_life.py"
OUTAGE = "tests/schedules/test_outage.py"
NEXT_RUN = "tests/schedules/test_next_run.py"
ATTEMPTS = "tests/worker/test_attempts.py"
WORKER_CLAIMS = "tests/worker/test_claiming.py"
THREADS = "tests/worker/test_threads.py"
HTTP = "tests/worker/test_http.py"
LINKS = "tests/worker/test_link.py"
RECOVERY = "tests/functions/test_recovery.py"
DEAD = "db/functions/upkeep/recover_workers.sql"
WORKER_STEPS = "tests/worker/test_steps.py"
WORKER_FAULTS = "tests/worker/test_faults.py"
TOKENS = "tests/functions/test_tokens.py"
BULK = "tests/functions/test_bulk.py"
METRICS = "tests/api/test_metrics.py"
WORKER_METRICS = "tests/worker/test_metrics.py"
OLDEST = f"{METRICS}::test_the_oldest_due_job_is_looked_up_and_the_age_of_the_census_is_told"
EXPLAINS = "tests/functions/test_explain_job.py"
DOCTOR = "tests/functions/test_doctor.py"
STEERING = "tests/concurrency/test_steering.py"
ACCESS = "tests/api/test_access.py"
METHODS = "tests/api/test_methods.py"
WALLS = "tests/functions/test_walls.py"
RETENTION = "tests/functions/test_retention.py"
SHARDS = "tests/functions/test_shards.py"
WORKER_SHARDS = "tests/worker/test_shards.py"
STANDBY = "tests/api/test_standby.py"
READY = "tests/api/test_ready.py"
BECOME_SHARD = "db/functions/shards/_become_shard.sql"
STATISTICS = "tests/functions/test_statistics.py"
HOSTILE = "tests/functions/test_hostile_tenant.py"
EXAMPLES = "tests/api/test_example_workers.py"
API_UPKEEP = "tests/api/test_upkeep.py"
WORK_RACES = "tests/api/test_work_races.py"
CANARIES = "tests/test_canaries.py"
THROTTLES = "tests/functions/test_throttle.py"
DEBOUNCES = "tests/functions/test_debounce.py"
KEY_RACES = "tests/concurrency/test_unique_keys.py"
UPGRADES = "tests/test_upgrade.py"
TAKE_KEY = "db/functions/enqueue/_take_unique_key.sql"
REPLACE = "db/functions/enqueue/_replace_job.sql"
EMPTY = f"{TURN_RACES}::test_a_job_is_found_though_a_claim_found_its_key_empty_before_the_commit"
ROOM_COMES = f"{TURN_RACES}::test_room_that_comes_while_a_claim_finds_the_key_full_is_not_forgotten"
TWO_CLAIMS = f"{TURN_RACES}::test_two_claims_never_start_more_of_a_key_than_its_limit"
NEXT_IN_ORDER = (
    f"{TURN_RACES}::test_in_strict_order_the_next_one_starts_when_the_one_before_has_ended"
)
LIMIT_IS_SET = (
    f"{TURN_RACES}::test_a_limit_that_is_set_while_a_claim_is_open_counts_what_that_claim_starts"
)
NEIGHBOUR = f"{WALLS}::test_what_a_neighbour_has_answers_as_what_there_is_not"
UNSEEN = f"{WALLS}::test_no_view_shows_a_neighbour_in_rows_or_numbers"

KEYS_IN_ORDER = (
    'order by t.unique_key collate "C", coalesce(t.queue, \'default\') collate "C", t.place'
)


@dataclass(frozen=True)
class Mutant:
    """One mistake: each old text stands in its file exactly once, and becomes the new one."""

    mistake: str
    file: str
    changes: tuple[tuple[str, str], ...]
    killers: tuple[str, ...]  # node ids of tests; one of them must fail


def mutant(mistake: str, file: str, old: str, new: str, *killers: str) -> Mutant:
    return Mutant(mistake, file, ((old, new),), killers)


MUTANTS = [
    # -- what no job can be
    mutant(
        "the rules look at new rows only",
        "db/triggers.sql",
        "after update on rota.live_jobs",
        "after insert on rota.live_jobs",
        f"{IMPOSSIBLE}::test_an_update_to_what_no_job_can_be_is_refused_by_the_name_of_the_rule",
    ),
    mutant(
        "the rules look at changed rows only",
        "db/triggers.sql",
        "after insert on rota.live_jobs",
        "after update on rota.live_jobs",
        f"{IMPOSSIBLE}::test_a_new_row_that_no_job_can_be_is_refused_by_the_name_of_the_rule",
    ),
    mutant(
        "a running job need not have all of a lease",
        "db/functions/rules/_impossible_job.sql",
        "when held <> case state when 'RUNNING' then 4 else 0 end",
        "when held > case state when 'RUNNING' then 4 else 0 end",
        f"{IMPOSSIBLE}::test_a_new_row_that_no_job_can_be_is_refused_by_the_name_of_the_rule",
    ),
    # -- turns and limits
    mutant(
        "the last turn of a key goes without the arrival lock",
        PASS_TURNS,
        "rota._arrival(_pass_turns.queue, k.key) in (\n"
        "                    select g.number from unnest(v_got) as g(number)\n"
        "                ) as is_sure",
        "true as is_sure",
        EMPTY,
    ),
    Mutant(
        "a producer looks for a turn in the statement that takes the lock",
        POST_TURNS,
        (
            (
                "    if current_setting('transaction_isolation') = 'read committed' then",
                "    if false then",
            ),
            (
                "    where k.got is not true\n",
                "    where current_setting('transaction_isolation') <> 'read committed'\n"
                "        or not pg_try_advisory_xact_lock_shared(\n"
                "            rota._arrival_class(), rota._arrival(k.queue, k.key)\n        )\n",
            ),
        ),
        (
            f"{TURN_RACES}::test_a_turn_is_looked_for_after_the_lock_is_held_not_in_the_same_statement",
        ),
    ),
    mutant(
        "a producer with an old snapshot relies on a turn",
        POST_TURNS,
        "    if current_setting('transaction_isolation') = 'read committed' then",
        "    if true then",
        EMPTY,
        f"{TURN_RACES}::test_a_job_is_found_though_it_came_while_a_claim_that_finds_its_key_empty_was_open",
    ),
    mutant(
        "a turn on which a producer relies is put off to a later job",
        PASS_TURNS,
        "when f.is_sure then n.run_at",
        "when n.id is not null then n.run_at",
        f"{TURN_RACES}::test_a_job_that_comes_while_a_claim_finds_only_a_later_one_is_not_put_off",
    ),
    mutant(
        "a key whose next job is due later gets no turn",
        PASS_TURNS,
        "v_tries and (n.id is not null or not f.is_sure)",
        "v_tries and not f.is_sure",
        f"{TURN_RACES}::test_a_later_job_comes_when_it_is_due_and_so_does_one_that_was_put_before_it",
    ),
    mutant(
        "keys that have older jobs go first",
        PASS_TURNS,
        "when n.run_at <= at then at",
        "when n.run_at <= at then n.run_at",
        f"{TURNS}::test_a_tenant_with_many_jobs_delays_one_with_few_by_their_turns_alone",
    ),
    mutant(
        "a full key is looked at again and again",
        PASS_TURNS,
        "when w.waits then k.opens_at",
        "when w.waits then at",
        f"{TURNS}::test_the_backlog_of_a_full_key_is_in_nobodys_way",
    ),
    mutant(
        "a producer relies on a turn that does not cover its job",
        POST_TURNS,
        "                and (t.from_run_at, t.from_id) <= (k.run_at, k.id)\n",
        "",
        f"{TURN_RACES}::test_a_turn_that_only_says_that_there_is_room_covers_no_job",
    ),
    mutant(
        "of a bulk the last job of a key has the turn",
        "db/functions/turns/_watch_jobs.sql",
        "order by j.queue, j.priority, j.key, j.counted, j.run_at, j.id",
        "order by j.queue, j.priority, j.key, j.counted, j.run_at desc, j.id",
        f"{TURN_RACES}::test_of_a_bulk_the_first_that_is_due_has_the_turn",
    ),
    mutant(
        "a claim of one job does not take the lock of its key",
        TAKE_TURN,
        "            v_room := 0;\n            exit;\n",
        "",
        f"{TURN_RACES}::test_two_claims_of_one_job_never_start_more_of_a_key_than_its_limit",
    ),
    mutant(
        "a claim of one job uses up an offer of room that led nowhere",
        TAKE_TURN,
        "    if v_is_plain is not true then\n",
        "    if v_is_plain is not true then\n"
        "        if v_other is not null then\n            return null;\n        end if;\n\n",
        f"{TURN_RACES}::test_room_is_found_by_whichever_turn_of_the_key_leads_to_a_job",
    ),
    mutant(
        "a claim of one job starts what the window of its key is shut for",
        TAKE_TURN,
        "if not v_stays_open then",
        "if false then",
        f"{TURNS}::test_a_window_shuts_for_claims_of_one_job",
    ),
    mutant(
        "a claim of one job counts no start of a key that is known",
        "db/functions/limits/_note_starts.sql",
        "        set (cells, starts) = (\n            select a.new_cells, a.new_starts\n"
        "            from rota._add_starts(\n                1, coalesce(",
        "        set (cells, starts) = (\n            select a.new_cells, a.new_starts\n"
        "            from rota._add_starts(\n                0, coalesce(",
        f"{TURNS}::test_a_window_slides",
    ),
    mutant(
        "a claim of one job passes by the schedules of a key",
        TAKE_TURN,
        "            and j.state = 'SCHEDULED'\n        order by",
        "            and j.state = 'SCHEDULED'\n            and j.schedule_type = 'ONE_TIME'\n"
        "        order by",
        f"{TURN_RACES}::test_a_schedule_is_not_passed_by_in_its_key",
    ),
    mutant(
        "a key is full after a claim of one job, and nobody is told of room",
        TAKE_TURN,
        "            coalesce(v_room = 1, false),\n",
        "            false,\n",
        "tests/functions/test_turns.py::test_a_full_key_waits_for_room_and_not_for_its_turn",
    ),
    mutant(
        "a claim of one job removes the last turn of a key, though a producer may rely on it",
        TAKE_TURN,
        "v_is_sure := v_passed = 0\n            and pg_try_advisory_xact_lock(",
        "v_is_sure := true\n            or pg_try_advisory_xact_lock(",
        f"{TURN_RACES}::test_a_job_is_found_though_a_claim_found_its_key_empty_before_the_commit",
    ),
    mutant(
        "a claim of one job removes the last turn of a key that has a job for later",
        TAKE_TURN,
        "elsif not v_is_sure or v_next_run_at is not null then",
        "elsif not v_is_sure then",
        f"{TURN_RACES}::test_a_later_job_keeps_a_turn_when_the_last_one_that_is_due_is_claimed",
    ),
    mutant(
        "a claim of one job steps over all turns that an old snapshot pins",
        TAKE_TURN,
        "v_began > interval '250 us'",
        "v_began > interval '1 hour'",
        "tests/functions/test_turns.py::"
        "test_claims_of_one_job_look_past_the_turns_that_an_old_snapshot_pins",
    ),
    mutant(
        "in strict order a job that is locked is passed by",
        HEAD_OF_KEY,
        "        and j.run_at <= at\n",
        "        and false\n",
        f"{TURN_RACES}::test_in_strict_order_a_first_job_that_somebody_has_locked_is_not_passed_by",
    ),
    mutant(
        "the turns of a clock that was put back stay where they are",
        "db/functions/turns/_mend_turns.sql",
        "            and u.ready_at > at + interval '1 minute'",
        "            and u.ready_at > at + interval '1 day'",
        "tests/functions/test_turns.py"
        "::test_turns_of_a_clock_that_was_put_back_are_brought_forward",
    ),
    mutant(
        "a claim does not take the locks of keys",
        TAKE_TURNS,
        "            for no key update skip locked\n        )\n        select\n",
        "        )\n        select\n",
        TWO_CLAIMS,
    ),
    mutant(
        "a claim of one job stops at turns that only say that there is room",
        TAKE_TURN,
        "if v_dropped = 50 then",
        "if v_dropped = 1 then",
        f"{TURNS}::test_turns_that_only_say_that_there_is_room_keep_no_claim_from_a_job",
    ),
    mutant(
        "a turn that a claim of one job puts back is behind others that were as long ready",
        TAKE_TURN,
        "v_ready_at - interval '1 microsecond'",
        "v_ready_at",
        f"{TURN_RACES}::test_claims_that_are_open_hide_no_key_but_those_that_they_took",
    ),
    mutant(
        "keys of which nothing waits for room leave their share to the first of the others",
        TAKE_TURNS,
        "greatest(1, room / v_number)",
        "greatest(1, room / cardinality(v_taken.turns))",
        f"{TURNS}::test_keys_share_a_claim_though_others_only_say_that_there_is_room",
    ),
    mutant(
        "in strict order room that is offered leads not behind a turn that a claim holds",
        TAKE_TURNS,
        "(where k.from_run_at < 'infinity' or limited & 8 > 0)",
        "(where k.from_run_at < 'infinity')",
        f"{TURN_RACES}::test_in_strict_order_room_leads_to_jobs_whose_turn_another_claim_holds",
    ),
    mutant(
        "a claim that is refused a key gives up",
        TAKE_TURNS,
        "            v_taken.turns := '{}';\n",
        "",
        f"{TURN_RACES}::test_a_claim_that_is_refused_a_key_takes_the_next_one",
    ),
    mutant(
        "the first key of a claim takes all of it",
        TAKE_TURNS,
        "greatest(1, room / v_number)",
        "room",
        f"{TURNS}::test_keys_share_a_claim",
    ),
    mutant(
        "in strict order a job starts while another runs",
        ROOM_OF_KEYS,
        "when c.running > 0 then 0",
        "when false then 0",
        NEXT_IN_ORDER,
    ),
    mutant(
        "in strict order any job starts in the place of the head",
        ROOM_OF_KEYS,
        "case when r.room > 0 then h.id end",
        "null::bigint",
        f"{TURN_RACES}::test_in_strict_order_the_head_starts_again_before_what_was_due_earlier",
    ),
    mutant(
        "in strict order a look begins at the turn that was taken",
        HEAD_OF_KEY,
        "        and t.ready_at >= turns_from\n",
        "        and false\n",
        f"{TURN_RACES}::test_in_strict_order_a_turn_that_another_claim_holds_hides_no_earlier_job",
    ),
    mutant(
        "in strict order a failed job loses its place",
        END,
        "(d.key_in_order or v_is_old)",
        "false",
        NEXT_IN_ORDER,
    ),
    mutant(
        "a failed job that keeps its place stands in no lane",
        END,
        "                left_lane = null,\n",
        "",
        f"{TURNS}::test_a_schedule_that_is_paused_in_its_backoff_holds_up_its_key_for_no_longer",
    ),
    mutant(
        "what functions of before left in no lane stays there",
        "db/functions/upkeep/maintain.sql",
        "        set left_lane = null\n",
        "        set left_lane = true\n",
        "tests/functions/test_upkeep.py"
        "::test_what_functions_of_before_left_to_wait_is_put_into_its_lane",
    ),
    mutant(
        "who counts the jobs of one queue reads all",
        "db/views.sql",
        "    where (j.counted and j.left_lane) is not true or j.counted\n    group by",
        "    group by",
        "tests/functions/test_plans.py::test_the_live_jobs_of_one_queue_are_found_by_index",
    ),
    mutant(
        "what a claim starts under a limit is not counted",
        CLAIM,
        "counted = v_counted,\n",
        "counted = null,\n",
        TWO_CLAIMS,
    ),
    mutant(
        "claims do not take the lock of a limited queue",
        QUEUE_ROOM,
        "        for no key update skip locked;",
        "        ;",
        TWO_CLAIMS,
    ),
    mutant(
        "a new limit does not wait for claims that are open",
        CLAIM,
        "or v_limited & 2 > 0 and not rota._settle_limits(v_queue, v_limited);",
        ";",
        LIMIT_IS_SET,
    ),
    mutant(
        "a claim settles a limit of which it does not know",
        SETTLE,
        "q.limited = _settle_limits.limited",
        "true",
        f"{TURN_RACES}::test_a_limit_that_is_set_while_a_claim_is_at_another_queue_is_not_for_that"
        "_claim",
    ),
    mutant(
        "who sets a limit puts it in force before the commit",
        LIMITS_CHANGED,
        "        perform set_config('rota.sets_limits', pg_current_xact_id()::text, true);\n",
        "",
        f"{TURN_RACES}::test_a_limit_is_not_put_in_force_by_the_transaction_that_sets_it",
    ),
    mutant(
        "claims that find no key put no limit in force",
        CLAIM,
        "                        if v_limited & 2 > 0 then\n",
        "                        if false then\n",
        f"{TURN_RACES}::test_a_limit_is_put_in_force_by_claims_that_find_nothing",
    ),
    mutant(
        "a job that has begun before its queue was in strict order loses its place when it fails",
        END,
        "(d.key_in_order or v_is_old)",
        "d.key_in_order and d.counted",
        f"{TURN_RACES}::test_a_job_that_fails_when_strict_order_has_just_come_keeps_its_place",
    ),
    mutant(
        "of jobs that ran when strict order came the one with the shorter backoff is first",
        HEAD_OF_KEY,
        "    order by j.scheduled_for, j.id\n",
        "    order by j.run_at, j.id\n",
        f"{TURN_RACES}::test_jobs_that_ran_when_strict_order_came_go_on_in_that_order_when_they"
        "_fail",
    ),
    mutant(
        "a job without a key keeps a place in strict order",
        END,
        "and d.key is not null\n",
        "\n",
        f"{DEBOUNCES}::test_a_job_without_a_key_has_no_place_to_keep_in_a_queue_in_strict_order",
    ),
    *(
        mutant(
            f"{what} asks for a window by the time at which it began",
            file,
            ":= rota._now()",
            ":= rota._now() - interval '75 seconds'",
            f"{TURN_RACES}::test_a_claim_that_waited_for_long_before_it_looked_knows_of_all_starts",
        )
        for what, file in (
            ("a claim of a job with a key", TAKE_TURN),
            ("a claim of jobs with keys", ROOM_OF_KEYS),
            ("a claim of a limited queue", QUEUE_ROOM),
        )
    ),
    mutant(
        "chores put no limit in force",
        "db/functions/upkeep/do_chores.sql",
        "        where q.limited > 0;",
        "        where false;",
        f"{TURN_RACES}::test_a_limit_is_put_in_force_by_chores_where_no_claim_comes",
    ),
    mutant(
        "chores put a limit in force though they cannot see what runs",
        SETTLE,
        "current_setting('transaction_isolation') <> 'read committed'",
        "false",
        f"{TURN_RACES}::test_chores_that_cannot_see_what_runs_put_no_limit_in_force",
    ),
    *(
        mutant(
            f"a run that {whose} gives up holds up its key in strict order",
            file,
            f"counted = case when v_slot = {slot} then j.counted end",
            "counted = j.counted",
            f"{TURNS}::test_a_run_of_a_schedule_that_is_given_up_holds_up_its_key_no_longer",
        )
        for whose, file, slot in (
            ("a claim", "db/functions/runs/_settle_missed.sql", "j.scheduled_for"),
            ("a resume", "db/functions/schedules/resume_schedule.sql", "v_job.scheduled_for"),
        )
    ),
    mutant(
        "a prepared claim is forgotten when the server is started again",
        "db/functions/limits/_open_claims.sql",
        "or l.virtualtransaction like '-1/%'",
        "or false",
        f"{TURN_RACES}::test_a_prepared_claim_is_waited_for_when_the_server_was_started_again",
    ),
    mutant(
        "who sets the mark of those who set limits puts none in force",
        SETTLE,
        "= pg_current_xact_id_if_assigned()::text",
        "<> ''",
        f"{TURN_RACES}::test_a_claim_that_sets_the_mark_of_who_sets_limits_is_one_like_others",
    ),
    mutant(
        "a new limit is written anew by each claim",
        SETTLE,
        "            and l.open_before is distinct from v_open",
        "",
        f"{TURN_RACES}::test_while_a_limit_is_new_claims_write_once_whom_they_wait_for",
    ),
    mutant(
        "a schedule that runs is not counted when it is saved",
        "db/functions/schedules/schedule_job.sql",
        "when j.state = 'RUNNING' then true\n",
        "when j.state = 'RUNNING' then null\n",
        f"{TURN_RACES}::test_a_schedule_that_runs_is_counted_also_when_it_is_saved_by_who_knows_of"
        "_no_limit",
    ),
    mutant(
        "who knows of no order takes the place of the job that he hands back",
        END,
        "(d.key_in_order or v_is_old)",
        "d.key_in_order",
        f"{TURN_RACES}::test_a_job_that_who_knows_of_no_order_hands_back_keeps_its_place",
    ),
    mutant(
        "a shorter window forgets its last starts",
        LIMITS_CHANGED,
        "f.cells[cardinality(f.cells)] > v_now",
        "false",
        f"{TURN_RACES}::test_a_window_that_becomes_shorter_knows_of_all_starts",
    ),
    mutant(
        "limits are set by who does not see what has started",
        LIMITS_CHANGED,
        "if current_setting('transaction_isolation') <> 'read committed' then",
        "if false then",
        f"{TURN_RACES}::test_limits_are_set_by_who_sees_what_has_started_and_waits",
    ),
    mutant(
        "maintain forgets starts whose window it does not know",
        "db/functions/limits/_forget_flows.sql",
        "where current_setting('transaction_isolation') = 'read committed'",
        "where true",
        f"{TURN_RACES}::test_maintain_forgets_no_starts_whose_window_it_does_not_know",
    ),
    mutant(
        "chores count while they have locked what runs",
        "db/functions/upkeep/do_chores.sql",
        "    if v_settled then",
        "    if false then",
        f"{TURN_RACES}::test_chores_that_put_a_limit_in_force_do_nothing_after_it",
    ),
    mutant(
        "what an old snapshot has handed back is never replaced",
        "db/functions/enqueue/_replace_job.sql",
        "(h.counted is null or q.key_in_order is not true)",
        "h.counted is null",
        f"{DEBOUNCES}::test_a_job_that_an_old_snapshot_has_handed_back_is_replaced_where_there_is_no"
        "_order",
    ),
    mutant(
        "a new limit of a queue is never in force",
        QUEUE_ROOM,
        "if v_look = 10 or not rota._settle_limits(queue, limited) then",
        "if v_look = 10 then",
        LIMIT_IS_SET,
    ),
    mutant(
        "what an open claim has started is marked too early",
        SETTLE,
        "    if v_open <> '{}' then\n        return false;",
        "    if false then\n        return false;",
        LIMIT_IS_SET,
    ),
    mutant(
        "what somebody holds is passed by when a limit is set",
        SETTLE,
        "        if exists (\n            select from rota.live_jobs",
        "        if false and exists (\n            select from rota.live_jobs",
        f"{TURN_RACES}::test_what_runs_when_a_limit_is_set_is_counted_also_what_somebody_holds",
    ),
    mutant(
        "a second kind of limit counts at once",
        LIMITS_CHANGED,
        "    if is_new then",
        "    if false then",
        f"{TURN_RACES}::test_a_limit_that_joins_another_kind_counts_what_an_open_claim_starts",
    ),
    mutant(
        "keys that wait do not learn of a limit that was raised",
        LIMITS_CHANGED,
        "u.queue = _limits_changed.queue and u.is_full",
        "false",
        f"{TURN_RACES}::test_a_limit_is_raised_by_a_transaction_while_keys_wait",
    ),
    mutant(
        "who raises a limit does not wait for claims",
        LIMITS_CHANGED,
        "    order by l.number\n    for no key update;",
        "    order by l.number;",
        f"{TURN_RACES}::test_a_limit_is_raised_while_a_claim_finds_the_key_full",
    ),
    mutant(
        "a finished batch gives no room to its keys",
        COMPLETE,
        "perform rota._offer_room(v_queues, v_keys, v_now);",
        "null;",
        ROOM_COMES,
    ),
    mutant(
        "a failed or lost attempt gives no room to its key",
        END,
        "    if v_counted then",
        "    if false then",
        ROOM_COMES,
    ),
    mutant(
        "a cancelled head gives no room to its key",
        "db/functions/runs/_retire_job.sql",
        "    if job.counted then",
        "    if false then",
        f"{TURN_RACES}::test_in_strict_order_the_head_is_cancelled_while_a_claim_looks_at_it",
    ),
    mutant(
        "a running schedule that moves gives no room",
        "db/functions/schedules/schedule_job.sql",
        "    if v_held.counted\n",
        "    if false\n",
        f"{TURN_RACES}::test_a_running_schedule_that_moves_gives_room_to_its_key_of_before",
    ),
    mutant(
        "a key that was found full gets no turn",
        CLAIM,
        "                        perform rota._pass_turns(v_queue, v_priority, v_taken, v_now)\n"
        "                        where cardinality(v_taken.turns) > 0;\n"
        "                        continue;",
        "                        continue;",
        ROOM_COMES,
    ),
    mutant(
        "a claim that waited for its queue does not ask once more whether all is counted there",
        QUEUE_ROOM,
        "l.number = -1 and l.settled\n        for no key",
        "l.number = -1\n        for no key",
        f"{TURN_RACES}::test_a_limit_that_is_set_while_a_claim_waits_for_its_queue_holds_that_claim"
        "_back",
    ),
    mutant(
        "a key that is found while a limit is set is not looked at for a minute",
        ROOM_OF_KEYS,
        "                when e.settled is not true then at + interval '1 second'\n",
        "",
        f"{TURN_RACES}::test_a_key_that_a_claim_found_while_a_limit_was_set_is_looked_at_again_soon",
    ),
    mutant(
        "what runs is counted where only starts are limited",
        LIMITS_CHANGED,
        "            else 4 + 16\n",
        "            else 4\n",
        f"{TURNS}::test_claims_are_heap_only_updates_where_nothing_but_starts_is_limited",
    ),
    *(
        mutant(
            f"what runs is not counted where {what} joins a window",
            LIMITS_CHANGED,
            before,
            after,
            f"{TURN_RACES}::test_a_limit_of_what_runs_counts_what_has_started_where_only_starts_were"
            "_limited",
        )
        for what, before, after in (
            (
                "the limit of a queue",
                "num_nonnulls(q.max_running, q.key_max_running, k.max_running)",
                "num_nonnulls(q.key_max_running, k.max_running)",
            ),
            (
                "the limit of a key",
                "num_nonnulls(q.max_running, q.key_max_running, k.max_running)",
                "num_nonnulls(q.max_running, q.key_max_running)",
            ),
            (
                "strict order",
                "                or q.key_in_order\n                then 4\n",
                "                then 4\n",
            ),
        )
    ),
    mutant(
        "a queue that is deleted takes turns away on which producers rely",
        "db/functions/queues/delete_queue.sql",
        "            and rota._arrival(u.queue, u.key) = any(v_got)\n",
        "",
        f"{TURN_RACES}::test_a_queue_is_deleted_while_a_producer_relies_on_a_turn_of_it",
    ),
    mutant(
        "starts leave a window at once",
        STARTS_LEFT,
        "    where c.ends_at + period > at\n",
        "    where c.ends_at > at\n",
        f"{TURNS}::test_a_window_slides",
    ),
    mutant(
        "a start is counted with one that is older than it",
        ADD_STARTS,
        "where u.ends_at > at\n",
        "where u.ends_at > at - period / 64\n",
        f"{TURNS}::test_a_start_is_counted_with_none_that_is_older_than_it",
    ),
    mutant(
        "each start of a window is kept by itself",
        ADD_STARTS,
        "select least(max(u.ends_at), at + period / 64), number",
        "select at, number",
        f"{TURNS}::test_a_window_is_kept_in_few_cells_however_many_start",
    ),
    mutant(
        "a window that is full stays shut when the clock is put back",
        STARTS_LEFT,
        "        where u.ends_at <= at + period + greatest(period, interval '1 minute')\n",
        "",
        f"{TURNS}::test_a_window_opens_again_though_the_clock_was_put_back",
    ),
    mutant(
        "starts of a clock that was put back count for longer than a window",
        ADD_STARTS,
        "least(u.ends_at, at + period / 64) as ends_at",
        "u.ends_at",
        f"{TURNS}::test_a_start_that_is_ahead_by_a_step_of_the_clock_lets_the_window_open_in_time",
    ),
    mutant(
        "a claim writes into a window whose lock it does not hold",
        "db/functions/limits/_note_starts.sql",
        "            where limited & 1 > 0\n",
        "",
        f"{TURN_RACES}::test_a_window_that_is_set_while_a_claim_is_open_is_not_written_by_that_claim",
    ),
    # -- claiming
    mutant(
        "a claim waits for jobs that another session holds",
        CLAIM,
        "for no key update skip locked",
        "for no key update",
        f"{RACES}::test_two_claims_never_get_one_job",
    ),
    mutant(
        "a claim locks so strongly that an open foreign key insert hides a job",
        CLAIM,
        "for no key update skip locked",
        "for update skip locked",
        f"{RACES}::test_an_open_foreign_key_insert_does_not_hide_a_job_from_claims",
    ),
    mutant(
        "a claim picks its rows in a subquery that a plan may run once for each row",
        CLAIM,
        "from unnest(v_found) as f(place)\n"
        "                where j.ctid = f.place\n                returning",
        "where j.id in (\n"
        "                        select k.id from rota.live_jobs as k\n"
        "                        where k.queue = v_queue and k.state = 'SCHEDULED'\n"
        "                        order by k.run_at, k.id limit v_room\n"
        "                        for no key update skip locked\n"
        "                    )\n                    returning",
        f"{RACES}::test_a_claim_takes_no_more_than_asked_under_any_plan",
    ),
    mutant(
        "a claim forgets its limit",
        CLAIM,
        "limit v_most - coalesce(cardinality(v_behind.places), 0)\n",
        "",
        f"{CLAIMS}::test_a_claim_takes_as_many_jobs_of_a_lane_as_it_asks_for",
    ),
    mutant(
        "a claim takes what runs already",
        CLAIM,
        "                and j.state = 'SCHEDULED'\n",
        "",
        f"{CLAIMS}::test_a_job_that_runs_is_not_claimed_again",
    ),
    mutant(
        "a claim takes jobs before their time",
        CLAIM,
        "                and j.run_at <= v_now\n",
        "",
        f"{CLAIMS}::test_a_job_is_not_claimed_before_its_time",
    ),
    mutant(
        "a claim takes jobs of a paused queue",
        CLAIM,
        "q.paused_at is null",
        "true",
        f"{CLAIMS}::test_a_paused_queue_gives_nothing_until_it_is_resumed",
    ),
    mutant(
        "a claim goes by the ids instead of the times",
        CLAIM,
        "            order by j.run_at, j.id\n",
        "            order by j.id\n",
        f"{CLAIMS}::test_a_job_that_came_later_and_is_due_longer_goes_first",
    ),
    mutant(
        "a lease counts from the start of the transaction",
        CLAIM,
        "v_claimed_at := rota._now();",
        "v_claimed_at := now();",
        f"{RACES}::test_a_claim_in_an_old_transaction_leases_from_the_present",
    ),
    mutant(
        "a lease counts from before a scan that took its time",
        CLAIM,
        "v_claimed_at := rota._now();",
        "v_claimed_at := v_now;",
        f"{RACES}::test_a_claim_that_had_to_wait_leases_from_when_it_found_the_job",
    ),
    mutant(
        "a token is the same at each claim of a job",
        CLAIM,
        "gen_random_uuid()",
        "md5(v_queue)::uuid",
        f"{FINISHES}::test_a_token_that_lost_its_lease_is_refused_and_changes_nothing",
    ),
    mutant(
        "a claim works at isolation levels at which claims fail each other",
        CLAIM,
        "<> 'read committed'",
        "is null",
        f"{RACES}::test_a_claim_refuses_the_levels_at_which_claims_would_fail_each_other",
    ),
    mutant(
        "an attempt is not charged when it is claimed",
        CLAIM,
        "attempt = j.attempt + 1",
        "attempt = greatest(j.attempt, 1)",
        f"{FINISHES}::test_a_job_that_always_kills_its_worker_runs_out_of_attempts",
    ),
    mutant(
        "a lane's cursor outlives a clock that is put back",
        "db/functions/claim/cursor/_lane_cursor.sql",
        "        and at >= v_cursor.noted_at and at >= v_cursor.next_run_at\n",
        "",
        f"{CURSOR}::test_a_step_of_the_clock_voids_the_cursor",
    ),
    mutant(
        "a lane's cursor goes where jobs may still be committed",
        "db/functions/claim/cursor/_lane_cursor.sql",
        "v_cursor.settled := at > v_cursor.noted_at + interval '2 seconds'",
        "v_cursor.settled := true",
        f"{CURSOR}::test_a_job_committed_late_is_found_at_once",
    ),
    mutant(
        "a transaction's own id counts as younger than all, however early it was taken",
        "db/functions/claim/cursor/_note_scan.sql",
        "        cursor.sure := own_id;\n",
        "        cursor.sure := true;\n",
        f"{CURSOR}"
        "::test_a_transaction_that_wrote_before_its_claim_waits_for_a_younger_id_of_its_own",
    ),
    mutant(
        "a scan that only had to wait leaves a cursor",
        "db/functions/claim/cursor/_note_scan.sql",
        "v_slow and took < interval '1 second'",
        "v_slow and took < interval '50 ms'",
        f"{CURSOR}::test_a_scan_that_had_to_wait_leaves_no_cursor",
    ),
    mutant(
        "nobody looks behind a lane's cursor",
        BEHIND,
        "v_budget < interval '200 us'",
        "v_budget < interval '1 day'",
        f"{CURSOR}::test_a_cursor_hides_what_lies_behind_it_until_it_is_time_to_look_there",
    ),
    mutant(
        "all that lies behind a lane's cursor is looked at in one claim",
        BEHIND,
        "v_cursor.slice := interval '1 ms';",
        "v_cursor.slice := interval '1000 years';",
        f"{CURSOR}::test_a_look_behind_takes_in_little_at_a_time",
    ),
    mutant(
        "a look behind passes by what it has no room for",
        BEHIND,
        "        exit when v_found = room;\n",
        "",
        f"{CURSOR}::test_a_slice_with_more_jobs_than_there_is_room_for_is_looked_at_again",
    ),
    mutant(
        "a job behind a cursor waits until there is nothing to do in the other queues",
        "db/functions/claim/cursor/_oldest_due.sql",
        "case when v_cursor.run_at > '-infinity' then v_cursor.swept_at end",
        "null",
        f"{CURSOR}::test_what_lies_behind_is_found_however_much_there_is_to_do_in_other_queues",
    ),
    mutant(
        "to find a job behind a cursor puts off the next look",
        BEHIND,
        "if v_found > 0 and not",
        "if false and not",
        f"{CURSOR}::test_what_lies_behind_is_claimed_as_fast_as_anything",
    ),
    mutant(
        "a wait for a lock puts off the next look behind a cursor 50 times as long",
        BEHIND,
        "            at + interval '1 minute'\n",
        "            'infinity'\n",
        f"{CURSOR}::test_a_look_that_had_to_wait_puts_off_the_next_by_a_minute_at_most",
    ),
    mutant(
        "a lane's cursor moves though nobody looked ahead of it",
        CLAIM,
        "v_most > coalesce(cardinality(v_behind.places), 0)",
        "true",
        f"{CURSOR}::test_a_cursor_stays_where_it_is_while_what_lies_behind_takes_all_the_room",
    ),
    mutant(
        "a run of a schedule that lies behind a cursor is claimed however late it is",
        CLAIM,
        "            v_recurring := v_recurring or v_behind.recurring;\n",
        "",
        f"{CURSOR}::test_a_run_of_a_schedule_that_lies_behind_has_its_misfire_policy_applied",
    ),
    mutant(
        "a new session does not use a shared cursor",
        CLAIM,
        "if v_shared or rota._has_lane_cursor",
        "if rota._has_lane_cursor",
        f"{SHARED}::test_the_first_claim_of_a_session_reads_little_of_what_an_old_snapshot_pins",
    ),
    mutant(
        "a claim of several queues does not use a shared cursor to order them",
        CLAIM,
        "l.priority, v_now, l.cursor_since is not null)",
        "l.priority, v_now, false)",
        f"{SHARED}::test_the_first_claim_of_a_session_reads_little_of_what_an_old_snapshot_pins",
    ),
    mutant(
        "the first to start elsewhere than at a lane's start keeps that from a shared cursor",
        NEWEST,
        " or v_newest.run_at = '-infinity'",
        "",
        f"{SHARED}::test_the_first_claim_of_a_session_reads_little_of_what_an_old_snapshot_pins",
    ),
    mutant(
        "a shared cursor outlives a clock that is put back",
        NEWEST,
        "        and c.shared_at <= at\n",
        "",
        f"{SHARED}::test_a_step_of_the_clock_voids_a_shared_cursor",
    ),
    mutant(
        "the oldest shared cursor is used",
        NEWEST,
        "order by c.shared_at desc",
        "order by c.shared_at",
        f"{SHARED}::test_sessions_of_one_claim_find_all_that_lies_behind_and_what_is_ahead",
    ),
    mutant(
        "no session of one claim looks behind a shared cursor",
        NEWEST,
        "if at >= v_newest.swept_at + interval '1 second' or",
        "if",
        f"{SHARED}::test_sessions_of_one_claim_find_all_that_lies_behind_and_what_is_ahead",
    ),
    mutant(
        "each session of one claim looks behind a shared cursor",
        NEWEST,
        "            v_newest.swept_at := greatest(v_newest.swept_at, at);\n",
        "            v_newest.swept_at := at - interval '1 second';\n",
        f"{SHARED}::test_one_session_a_second_looks_behind",
    ),
    mutant(
        "each session begins the sweep behind a shared cursor anew",
        NEWEST,
        "    if own.noted_at is null then\n",
        "    if own.noted_at is null then\n        v_newest.swept_run_at := null;\n",
        f"{SHARED}::test_a_sweep_goes_on_where_the_session_before_left_it",
    ),
    mutant(
        "a shared cursor that is further on is not taken over",
        NEWEST,
        "if (v_newest.run_at, v_newest.id) > (own.run_at, own.id) then",
        "if false then",
        f"{SHARED}::test_a_session_takes_over_the_place_of_another_that_is_further_on",
    ),
    mutant(
        "an earlier sweep behind a shared cursor is taken for one that is further on",
        NEWEST,
        "    if (-v_newest.sweeps, ",
        "    if (0 * v_newest.sweeps, ",
        f"{SHARED}::test_of_two_sweeps_the_one_that_is_further_on_is_continued",
    ),
    mutant(
        "a session keeps its own when a shared cursor was given up",
        NEWEST,
        "        return null;\n",
        "        return own;\n",
        f"{SHARED}::test_a_session_forgets_its_cursor_once_another_gave_it_up",
    ),
    mutant(
        "a shared cursor is given up without a word",
        NOTE,
        "if v_had_cursor and shared then",
        "if false then",
        f"{SHARED}::test_when_nothing_is_pinned_any_more_all_sessions_forget_their_cursors",
    ),
    mutant(
        "a cursor becomes a shared cursor where no scan takes long",
        NOTE,
        "shared := shared or took >= interval '10 ms';",
        "shared := true;",
        f"{SHARED}::test_a_cursor_is_shared_where_a_scan_from_the_start_takes_ten_milliseconds",
    ),
    mutant(
        "an id that was taken early settles the place of a shared cursor",
        "db/functions/claim/cursor/_share_cursor.sql",
        "        cursor.next_xid := null;\n",
        "        null;\n",
        f"{SHARED}::test_an_id_that_a_session_took_early_settles_no_place_that_another_noted",
    ),
    mutant(
        "a claim that has a shared cursor waits for the lane",
        "db/functions/claim/cursor/_share_cursor.sql",
        "for no key update skip locked",
        "for no key update",
        f"{RACES}::test_claims_that_share_a_cursor_keep_nobody_waiting",
    ),
    mutant(
        "maintain removes a shared cursor that is in use",
        TIDY,
        "            c.shared_at < newest.shared_at\n",
        "            c.shared_at <= newest.shared_at\n",
        f"{SHARED}::test_maintain_keeps_the_newest_cursor_of_each_lane",
    ),
    mutant(
        "maintain writes the row of a lane whenever a shared cursor is gone",
        TIDY,
        "where u.cursor_since < at - interval '10 minutes'",
        "where u.cursor_since is not null",
        f"{SHARED}::test_maintain_leaves_the_mark_of_a_lane_for_ten_minutes",
    ),
    mutant(
        "maintain waits for a claim that has a shared cursor",
        "db/functions/upkeep/maintain.sql",
        "for update of l skip locked",
        "for update of l",
        f"{SHARED}::test_maintain_passes_by_a_lane_that_a_claim_marks",
    ),
    mutant(
        "a claim takes payloads without end",
        CLAIM,
        "                    if v_bytes_left <= 0 then\n",
        "                    if false then\n",
        f"{CLAIMS}::test_the_limit_holds_for_all_queues_and_priorities_of_a_claim_together",
    ),
    mutant(
        "the bytes of a payload are those that are stored",
        "db/functions/claim/_most_bytes.sql",
        "least(pg_column_size(payload), 8000000) * 255",
        "pg_column_size(payload)",
        f"{CLAIMS}::test_what_counts_is_the_text_that_is_sent_not_how_it_is_stored",
    ),
    mutant(
        "a claim that is bounded in bytes locks all that it has room for",
        CLAIM,
        "v_slice := 100;",
        "v_slice := 10000;",
        f"{CLAIMS}::test_an_open_claim_of_few_large_jobs_hides_few_others",
    ),
    mutant(
        "a claim settles all schedules that it finds, however long that takes",
        "db/functions/runs/_settle_missed.sql",
        "continue when v_seen > 0 and",
        "continue when false and",
        f"{OUTAGE}::test_a_claim_settles_some_schedules_and_leaves_the_others_as_they_are",
    ),
    mutant(
        "a claim that settled no schedule for lack of time never gets on",
        "db/functions/runs/_settle_missed.sql",
        "continue when v_seen > 0 and",
        "continue when",
        f"{OUTAGE}::test_a_claim_settles_one_schedule_of_a_lane_though_another_took_all_the_time",
    ),
    mutant(
        "a claim comes back empty when the policies gave up what it found",
        CLAIM,
        "v_more := v_keyed or cardinality(v_found) < v_number\n                    or ",
        "v_more := v_keyed or ",
        f"{OUTAGE}::test_a_claim_goes_on_behind_schedules_that_have_nothing_to_run",
    ),
    mutant(
        "jobs of a lower priority overtake schedules that were left for lack of time",
        CLAIM,
        "            exit lanes when v_room < max_jobs\n",
        "            exit when v_room < max_jobs\n",
        f"{OUTAGE}::test_no_job_of_a_lower_priority_overtakes_what_was_left",
    ),
    mutant(
        "a schedule that catches up keeps its lane to itself",
        "db/functions/runs/_next_slot.sql",
        "else greatest(rota._later(v_slot, random() * v_schedule.jitter), at)",
        "else rota._later(v_slot, random() * v_schedule.jitter)",
        f"{OUTAGE}::test_a_schedule_that_catches_up_takes_turns_with_other_jobs",
    ),
    mutant(
        "a missed slot is never late once its turn has come",
        "db/functions/runs/_missed_slots.sql",
        "job.run_at < v_oldest or 'RELEASED' is distinct from (",
        "job.run_at < v_oldest or null is distinct from (",
        f"{OUTAGE}::test_a_run_that_was_handed_back_is_late_from_when_it_may_run_again",
    ),
    mutant(
        "a repeated hour is counted twice for fixed times",
        "db/functions/cron/_cron_slots_between.sql",
        "case when not v_spec.elapsed then v_from + v_offset_before - v_second end",
        "null",
        f"{COUNTS}::test_as_many_slots_of_a_cron_expression_are_counted_as_walked",
    ),
    mutant(
        "times that the clocks skip are not counted",
        "db/functions/cron/_cron_slots_between.sql",
        "v_number := v_number + 1;",
        "v_number := v_number + 0;",
        f"{COUNTS}::test_as_many_slots_of_a_cron_expression_are_counted_as_walked",
    ),
    mutant(
        "a day that a zone skips counts twice",
        "db/functions/slots/_interval_slots_between.sql",
        "l.local_then - l.local_before > interval '1 day'",
        "l.local_then - l.local_before > interval '2 days'",
        f"{COUNTS}::test_a_day_that_is_skipped_is_no_slot_of_its_own",
    ),
    mutant(
        "a slot that had its run is run again when the next one is known",
        "db/functions/runs/_missed_slots.sql",
        "        slot := rota._slot_after(schedule, job.scheduled_for);\n\n        if slot is null",
        "        if slot is null",
        f"{LIFE}::test_no_slot_is_lost_or_doubled_once_they_can_be_computed_again",
    ),
    mutant(
        "a lock that was not had is laid to the schedule",
        "db/functions/slots/_is_passing.sql",
        "'53', '55', '57'",
        "'53', '57'",
        f"{LIFE}::test_an_error_of_the_moment_fails_the_call_and_is_not_laid_to_the_schedule",
    ),
    mutant(
        "recovery is given up when an outsider holds a lock",
        "db/functions/upkeep/recover_jobs.sql",
        "not rota._take_chore('recover_jobs')",
        "not pg_try_advisory_xact_lock(hashtextextended('rota.recover_jobs', 0))",
        "tests/functions/test_recovery.py"
        "::test_a_login_without_rights_cannot_keep_recovery_from_its_work",
    ),
    mutant(
        "recovery goes on until it is cut off",
        "db/functions/upkeep/recover_jobs.sql",
        "        exit when clock_timestamp() > v_began + interval '1 second';\n",
        "",
        "tests/functions/test_recovery.py"
        "::test_recovery_stops_after_a_second_and_the_next_call_goes_on",
    ),
    # -- dead workers
    mutant(
        "whoever lost its session in a restart of the server is taken for dead",
        DEAD,
        "w.server_since = rota._server_since()",
        "w.server_since is not null",
        f"{RECOVERY}::test_sessions_that_a_restart_of_the_server_ended_make_nobody_dead",
    ),
    mutant(
        "a crash of the server is no restart",
        "db/functions/workers/_server_since.sql",
        "pg_catalog.pg_stat_get_bgwriter_stat_reset_time()",
        "null",
        f"{RECOVERY}::test_a_crash_begins_another_life_of_the_server_as_a_reset_of_its_statistics_does",
    ),
    mutant(
        "a worker that was cut off has no time to come back",
        DEAD,
        "'1.75 s'",
        "'0 s'",
        f"{RECOVERY}"
        "::test_a_worker_whose_session_stays_away_is_taken_for_dead_and_its_job_starts_again",
    ),
    mutant(
        "a worker that came back is gone since it was cut off the last time",
        "db/functions/workers/announce_worker.sql",
        "        gone_at = null\n",
        "        gone_at = w.gone_at\n",
        f"{RECOVERY}::test_a_worker_that_comes_back_in_time_keeps_its_jobs",
    ),
    mutant(
        "a look takes the session of before for the one that a worker has now",
        DEAD,
        "(g.worker, g.backend) in (select * from unnest(v_gone, v_backends))",
        "g.worker = any(v_gone)",
        f"{RACES}::test_a_look_that_saw_the_old_session_does_not_take_the_new_one_for_gone",
    ),
    mutant(
        "a look waits for another look",
        DEAD,
        "for no key update skip locked",
        "for no key update",
        f"{RACES}::test_two_looks_at_once_take_a_worker_for_dead_once_and_wait_for_nothing",
    ),
    mutant(
        "a look in an open transaction sees the sessions of before",
        DEAD,
        "perform pg_stat_clear_snapshot();",
        "",
        f"{RECOVERY}::test_a_transaction_that_goes_on_sees_who_has_come_back",
    ),
    Mutant(
        "what a worker has claimed since it was seen gone is taken back, too",
        "db/functions/upkeep/recover_jobs.sql",
        (
            ("j.worker = any(v_dead) and j.started_at < (", "j.worker = any(v_dead) and v_now > ("),
            ("v_now or j.started_at < (", "v_now or v_now > ("),
        ),
        (f"{RECOVERY}::test_what_a_worker_claims_after_it_was_seen_gone_is_left_to_it",),
    ),
    mutant(
        "a job that kills its workers starts again at once, again and again",
        "db/functions/upkeep/recover_jobs.sql",
        " and j.attempt = 1",
        "",
        f"{RECOVERY}::test_only_the_first_loss_of_a_dead_worker_starts_again_at_once",
    ),
    mutant(
        "the queues that a worker announced first are all that it is given back early",
        "db/functions/workers/announce_worker.sql",
        "        queues = excluded.queues,\n",
        "",
        f"{RECOVERY}"
        "::test_a_dead_worker_s_job_of_a_queue_that_it_announced_later_starts_again_at_once",
    ),
    mutant(
        "requests are forgotten by upkeep only",
        "db/functions/requests/begin_request.sql",
        "random() < 0.01",
        "false",
        "tests/api/test_repeats.py"
        "::test_requests_forget_old_ones_so_that_their_table_does_not_grow_without_upkeep",
    ),
    mutant(
        "who forgets old requests waits for one that is held",
        "db/functions/requests/_forget_requests.sql",
        " skip locked",
        "",
        "tests/api/test_repeats.py"
        "::test_maintain_forgets_what_is_older_than_a_day_and_passes_by_what_is_held",
    ),
    mutant(
        "a name that others can have attends",
        "db/functions/workers/announce_worker.sql",
        "if attends and worker",
        "if false and worker",
        f"{RECOVERY}::test_only_a_name_that_nobody_else_can_have_attends",
    ),
    mutant(
        "a worker attends by a session that a pooler has lent it",
        "worker/upkeep.py",
        "attends=not self._link.pooled",
        "attends=True",
        f"{WORKER_CLAIMS}::test_a_worker_behind_a_pooler_polls",
    ),
    mutant(
        "a worker that is stopping attends no more",
        "worker/upkeep.py",
        "while not closing.is_set():",
        "while not stopping.is_set():",
        f"{WORKER_FAULTS}"
        "::test_a_worker_that_is_stopping_shows_that_it_lives_until_its_handlers_are_done",
    ),
    mutant(
        "a worker that was away does not ask for its leases",
        "worker/upkeep.py",
        "            self._beat()\n",
        "",
        f"{WORKER_FAULTS}::test_a_worker_that_was_taken_for_dead_learns_it_as_soon_as_it_is_back",
    ),
    mutant(
        "all links of a process knock while the server is away",
        "worker/link.py",
        "with self._turn:",
        "if True:",
        f"{LINKS}::test_of_the_links_of_a_process_one_knocks_at_a_time_while_the_server_is_away",
    ),
    # -- fencing
    Mutant(
        "the end of an attempt goes by the job alone, not by the token",
        END,
        (
            ("            and (j.id, j.token) in (select * from unnest(job_ids, tokens))\n", ""),
            ("on i.job_id = j.id and i.token = j.token", "on i.job_id = j.id"),
        ),
        (f"{FINISHES}::test_a_token_that_lost_its_lease_is_refused_and_changes_nothing",),
    ),
    mutant(
        "a batch takes the token of one job for the lease of another",
        END,
        "on i.job_id = j.id and i.token = j.token",
        "on i.job_id = j.id",
        f"{FINISHES}::test_a_batch_tells_two_tokens_of_one_job_apart",
    ),
    mutant(
        "a batch of successes takes any of its tokens for any of its leases",
        "db/functions/finish/_complete_jobs.sql",
        "            and (j.id, j.token) in (select * from unnest(job_ids, tokens))\n",
        "            and j.token = any(tokens)\n",
        f"{FINISHES}::test_a_batch_of_successes_does_not_take_one_jobs_token_for_another",
    ),
    mutant(
        "a batch of successes completes a job that was cancelled meanwhile",
        "db/functions/finish/_complete_jobs.sql",
        "'ONE_TIME' or j.cancel_requested_at is not null then 0",
        "'ONE_TIME' then 0",
        f"{FINISHES}::test_a_batch_of_successes_judges_those_that_are_not_plain",
    ),
    mutant(
        "a batch of successes completes a schedule for good",
        "db/functions/finish/_complete_jobs.sql",
        "j.schedule_type <> 'ONE_TIME' or ",
        "",
        f"{FINISHES}::test_a_batch_of_successes_judges_those_that_are_not_plain",
    ),
    mutant(
        "a job that completes in a mixed batch is its own attempt, and has another",
        END,
        "            where not d.is_both\n",
        "",
        f"{FINISHES}::test_a_one_time_job_that_completes_is_its_own_last_attempt",
    ),
    mutant(
        "a schedule that is over is taken for its own last attempt",
        END,
        "d.verdict = 'COMPLETED' and d.schedule_type = 'ONE_TIME' as is_both",
        "d.verdict = 'COMPLETED' as is_both",
        f"{FINISHES}::test_no_other_end_is_told_by_the_finished_row_alone",
    ),
    Mutant(
        "the attempt of a cancelled job is told by the finished row, which a retry deletes",
        END,
        (
            (
                "d.verdict = 'COMPLETED' and d.schedule_type = 'ONE_TIME' as is_both",
                "d.verdict in ('COMPLETED', 'CANCELLED') as is_both",
            ),
            ("case when d.is_both then d.token end", "null"),
        ),
        (f"{FINISHES}::test_no_other_end_is_told_by_the_finished_row_alone",),
    ),
    mutant(
        "a job that completes forgets the token it was finished under",
        "db/functions/finish/_complete_jobs.sql",
        "        g.token, g.progress",
        "        null, g.progress",
        f"{FINISHES}::test_a_repeated_finish_of_a_job_that_completed_is_told_from_another",
    ),
    mutant(
        "a repeated finish is not looked for among the jobs that completed",
        "db/functions/finish/_past_ending.sql",
        "where f.id = _past_ending.job_id and f.token = _past_ending.token",
        "where false",
        f"{FINISHES}::test_a_repeated_finish_of_a_job_that_completed_is_told_from_another",
    ),
    mutant(
        "a job that completed answers to any token",
        "db/functions/finish/_past_ending.sql",
        "where f.id = _past_ending.job_id and f.token = _past_ending.token",
        "where f.id = _past_ending.job_id",
        f"{FINISHES}::test_a_repeated_finish_of_a_job_that_completed_is_told_from_another",
    ),
    mutant(
        "executions shows what was recorded in two rows twice",
        "db/views.sql",
        "'COMPLETED' as job_state,\n    null::timestamptz as next_run_at\n"
        "from rota.finished_jobs as f\nwhere f.token is not null\n",
        "'COMPLETED' as job_state,\n    null::timestamptz as next_run_at\n"
        "from rota.finished_jobs as f\n",
        f"{FINISHES}::test_a_success_of_before_is_shown_once_and_its_repeat_gets_the_answer_of_then",
    ),
    mutant(
        "job_executions shows what was recorded in two rows twice",
        "db/views.sql",
        "::rota.job_state as job_state,\n    null::timestamptz as next_run_at\n"
        "from rota.finished_jobs as f\nwhere f.token is not null\n",
        "::rota.job_state as job_state,\n    null::timestamptz as next_run_at\n"
        "from rota.finished_jobs as f\n",
        f"{FINISHES}::test_a_success_of_before_is_shown_once_and_its_repeat_gets_the_answer_of_then",
    ),
    mutant(
        "check_invariants takes every finished job for an attempt",
        "db/functions/upkeep/check_invariants.sql",
        "        from rota.finished_jobs as f\n        where f.token is not null\n",
        "        from rota.finished_jobs as f\n",
        "tests/functions/test_invariants.py::test_what_is_sound_is_not_called_damaged",
    ),
    mutant(
        "any finished job may be an attempt",
        "db/migrations/0075_one_history_row.sql",
        "state = 'COMPLETED' and schedule_type = 'ONE_TIME' and started_at is not null",
        "state = 'COMPLETED'",
        f"{FINISHES}::test_the_table_refuses_a_finished_row_that_cannot_be_an_attempt",
    ),
    Mutant(
        "a heartbeat goes by the job alone",
        "db/functions/lease/heartbeat_job.sql",
        (
            (
                " and j.token = heartbeat_job.token\n            for no key update skip",
                " for update skip",
            ),
            ("        and j.token = heartbeat_job.token\n    returning", "    returning"),
        ),
        (f"{FINISHES}::test_a_token_that_lost_its_lease_is_refused_and_changes_nothing",),
    ),
    mutant(
        "a heartbeat can shorten a lease",
        "db/functions/lease/heartbeat_job.sql",
        "greatest(j.lease_until, rota._later(v_now, lease))",
        "rota._later(v_now, lease)",
        f"{FINISHES}::test_a_heartbeat_lengthens_a_lease_and_never_shortens_it",
    ),
    mutant(
        "a batch of heartbeats waits for the one job that its handler holds",
        "db/functions/lease/heartbeat_jobs.sql",
        "for no key update skip locked",
        "for no key update",
        f"{RACES}::test_a_lease_held_by_its_handler_does_not_keep_the_batch_from_its_heartbeat",
    ),
    mutant(
        "hold_lease looks and does not lock",
        "db/functions/lease/hold_lease.sql",
        "    for no key update;\n",
        "    ;\n",
        f"{RACES}::test_hold_lease_keeps_recovery_away_until_effects_and_finish_commit_together",
    ),
    mutant(
        "a repeated finish may tell another story",
        "db/functions/finish/_past_outcome.sql",
        "or v_past.run is not null and v_past.result is distinct from result",
        "",
        f"{FINISHES}::test_another_outcome_under_the_same_token_is_a_conflict",
    ),
    mutant(
        "a finish after the lease was lost is answered as if it had counted",
        "db/functions/finish/_past_outcome.sql",
        "in ('LOST', 'RELEASED')",
        "in ('RELEASED')",
        f"{FINISHES}::test_a_batch_ends_in_one_call_each_with_its_own_outcome",
    ),
    # -- recovery
    mutant(
        "recovery does not look again when it has the row, and overwrites what came first",
        "db/functions/upkeep/recover_jobs.sql",
        "        for no key update skip locked\n",
        "",
        f"{RACES}::test_recovery_passes_by_a_job_whose_holder_is_about_to_speak",
    ),
    mutant(
        "recovery takes leases that have not run out",
        "db/functions/upkeep/recover_jobs.sql",
        "v_now constant timestamptz := rota._now();",
        "v_now constant timestamptz := rota._now() + interval '45 seconds';",
        f"{FINISHES}::test_recovery_takes_back_what_ran_out_and_nothing_else",
    ),
    mutant(
        "the backoff overflows at a high attempt",
        "db/functions/finish/_backoff.sql",
        "least(greatest(attempt - 1, 0), 40)",
        "attempt - 1",
        f"{FINISHES}::test_backoff_is_total_jittered_and_capped",
    ),
    mutant(
        "the backoff has no cap",
        "db/functions/finish/_backoff.sql",
        "random() * least(\n        extract(epoch from coalesce(cap, interval '1 hour'))"
        "::double precision,",
        "random() * least(\n        1e9,",
        f"{FINISHES}::test_backoff_is_total_jittered_and_capped",
    ),
    # -- how attempts end
    mutant(
        "a cancel that was asked for is forgotten when the attempt ends",
        END,
        "                    when h.cancel_requested_at is not null then 'CANCELLED'\n",
        "",
        f"{CANCELS}::test_cancelling_a_running_job_asks_and_the_job_ends_when_its_attempt_does",
    ),
    mutant(
        "a release charges the attempt",
        END,
        "                    when d.outcome = 'RELEASED' then d.attempt - 1\n",
        "",
        f"{FINISHES}::test_a_release_gives_the_attempt_and_the_place_in_line_back",
    ),
    mutant(
        "max_retries counts attempts instead of retries",
        END,
        "h.attempt <= h.max_retries",
        "h.attempt < h.max_retries",
        f"{FINISHES}::test_max_retries_of_three_means_four_attempts",
    ),
    mutant(
        "a failure after the timeout is a plain one",
        END,
        "                    when v_now >= rota._later(j.started_at, j.timeout) then 'TIMED_OUT'\n",
        "",
        f"{FINISHES}::test_a_failure_after_the_timeout_is_recorded_as_timed_out",
    ),
    mutant(
        "batches lock in the order in which they name the jobs",
        END,
        "        order by j.id\n        for no key update",
        "        order by array_position(job_ids, j.id)\n        for no key update",
        f"{RACES}::test_batches_that_share_jobs_in_opposite_order_do_not_deadlock",
    ),
    mutant(
        "batches of successes lock in the order in which they name the jobs",
        "db/functions/finish/_complete_jobs.sql",
        "        order by j.id\n        for no key update",
        "        order by array_position(job_ids, j.id)\n        for no key update",
        f"{RACES}::test_batches_that_share_jobs_in_opposite_order_do_not_deadlock",
    ),
    mutant(
        "an attempt that ended twice keeps its first row and gets a second",
        "db/functions/finish/_past_outcome.sql",
        "if v_past.error is distinct from left(error, 10000)",
        "if v_past.error is distinct from error",
        f"{FINISHES}::test_a_long_error_is_cut_and_its_repeat_still_recognized",
    ),
    mutant(
        "a repeated release of a cancelled job is refused",
        "db/functions/finish/_released_before.sql",
        "not in ('RELEASED', 'CANCELLED')",
        "<> 'RELEASED'",
        "tests/functions/test_finish.py::test_a_repeated_release_gets_the_answer_of_the_first",
    ),
    # -- producers
    mutant(
        "a second enqueue of a key is an error of the database",
        "db/functions/enqueue/enqueue_job.sql",
        "        on conflict ((j.unique_key), (j.queue)) where j.unique_key is not null"
        " do nothing\n",
        "",
        f"{ENQUEUES}::test_a_second_enqueue_of_a_live_key_returns_the_first_job",
    ),
    mutant(
        "a bulk takes its keys in the order in which it names them",
        "db/functions/enqueue/enqueue_jobs.sql",
        KEYS_IN_ORDER,
        "order by t.place",
        f"{RACES}::test_bulks_that_share_keys_in_opposite_order_do_not_deadlock",
    ),
    mutant(
        "a throttle forgets a key when its job has ended",
        TAKE_KEY,
        "u.until > at or exists",
        "exists",
        f"{THROTTLES}::test_a_key_is_taken_until_its_time_whatever_becomes_of_its_job",
    ),
    mutant(
        "a throttle's key outlives its time with no job that has it",
        TAKE_KEY,
        "u.until > at or exists",
        "u.until >= at - interval '1 second' or exists",
        f"{THROTTLES}::test_a_key_is_taken_until_its_time_whatever_becomes_of_its_job",
    ),
    mutant(
        "a throttle takes a key that has changed hands while it waited",
        TAKE_KEY,
        "        where u.job_id = v_job_id\n",
        "        where u.until <= at\n",
        f"{KEY_RACES}::test_a_throttled_call_finds_the_job_of_a_debounced_one_that_is_about_to_be",
    ),
    mutant(
        "a throttle keeps a key that a live job turns out to have",
        "db/functions/enqueue/enqueue_job.sql",
        "    if unique_for is not null and v_id <> v_job.job_id then",
        "    if false then",
        f"{KEY_RACES}::test_a_throttled_call_waits_for_a_job_that_is_about_to_have_the_key_alone",
    ),
    mutant(
        "a call that finds its key taken makes a lock of it",
        TAKE_KEY,
        "            return row(v_job_id, false)::rota.enqueued_job;\n"
        "        end if;\n\n        insert into",
        "            perform from rota.unique_keys as u where u.job_id = v_job_id for update;\n"
        "            return row(v_job_id, false)::rota.enqueued_job;\n"
        "        end if;\n\n        insert into",
        f"{KEY_RACES}::test_a_call_that_finds_the_key_taken_waits_for_nobody",
    ),
    mutant(
        "a debounce waits for the claim of its job",
        REPLACE,
        "for no key update of h skip locked",
        "for no key update of h",
        f"{KEY_RACES}::"
        "test_a_job_that_is_just_being_claimed_is_left_alone_and_the_event_is_a_new_job",
    ),
    mutant(
        "a debounce replaces a job without locking its key",
        REPLACE,
        "u.unique_key = _replace_job.unique_key\n        for update;",
        "u.unique_key = _replace_job.unique_key;",
        f"{KEY_RACES}::test_a_job_that_is_claimed_while_another_call_has_the_key_is_not_replaced",
    ),
    mutant(
        "a debounce replaces a job that has failed and will be tried again",
        REPLACE,
        "            and h.attempt = 0\n",
        "",
        f"{DEBOUNCES}::test_what_has_begun_or_ended_is_left_alone_and_the_event_is_a_new_job",
    ),
    mutant(
        "a debounce replaces a job that an operator retries",
        REPLACE,
        "            and h.run = 1\n",
        "",
        f"{DEBOUNCES}::test_what_has_begun_or_ended_is_left_alone_and_the_event_is_a_new_job",
    ),
    mutant(
        "a debounce replaces the job that others of its key wait for in order",
        REPLACE,
        "            and (h.counted is null or q.key_in_order is not true)\n",
        "",
        f"{DEBOUNCES}::test_a_job_in_strict_order_that_has_begun_keeps_its_payload_and_its_place",
    ),
    mutant(
        "a debounce puts its job off for ever",
        REPLACE,
        "                rota._later(h.created_at, unique_for)\n",
        "                rota._later(at, unique_for)\n",
        f"{DEBOUNCES}::test_no_job_waits_longer_than_unique_for",
    ),
    mutant(
        "a debounce leads to a job that has begun for ever",
        REPLACE,
        "    if v_job_id is distinct from v_holder then",
        "    if v_job_id <> v_holder then",
        f"{DEBOUNCES}::test_what_has_begun_or_ended_is_left_alone_and_the_event_is_a_new_job",
    ),
    mutant(
        "a debounced job that comes to be due wakes nobody",
        REPLACE,
        "    perform rota._wake(queue, v_run_at, at);\n\n",
        "",
        f"{DEBOUNCES}::test_a_sleeper_is_told_of_a_job_that_comes_to_be_due_at_once",
    ),
    mutant(
        "upkeep forgets the key of a job that waits",
        "db/functions/enqueue/_forget_unique_keys.sql",
        "    where u.ctid = any(v_places)\n        and u.until <= at\n"
        "        and not exists (select from rota.live_jobs as j where j.id = u.job_id);",
        "    where u.until <= at;",
        f"{DEBOUNCES}::test_maintain_keeps_the_key_of_a_job_that_waits",
    ),
    mutant(
        "two live jobs may hold one key",
        "db/migrations/0086_unique_key_of_queue.sql",
        "create unique index concurrently",
        "create index concurrently",
        f"{ENQUEUES}::test_a_second_enqueue_of_a_live_key_returns_the_first_job",
    ),
    mutant(
        "an enqueue calls nobody",
        "db/functions/wake/_wake.sql",
        "rota._nobody_sleeps(queue, run_at, at) or",
        "true or",
        f"{WAKING}::test_only_a_sleeper_is_notified_and_only_of_its_queue",
    ),
    mutant(
        "an enqueue notifies though nobody sleeps, and all commits wait for each other",
        "db/functions/wake/_nobody_sleeps.sql",
        "then pg_advisory_unlock(rota._wake_class(), hashtext(''))",
        "then not pg_advisory_unlock(rota._wake_class(), hashtext(''))",
        f"{WAKING}::test_nobody_is_notified_while_nobody_sleeps",
    ),
    mutant(
        "a bulk notifies though nobody sleeps",
        "db/functions/wake/_wake.sql",
        "rota._nobody_sleeps(queue, run_at, at) or",
        "false or",
        f"{WAKING}::test_nobody_is_notified_while_nobody_sleeps",
    ),
    # -- operators and upkeep
    mutant(
        "a cancel does not wait for the claim that is under way",
        CANCEL_JOBS,
        "\n                for no key update\n",
        "\n",
        f"{RACES}::test_a_cancel_that_meets_a_claim_asks_the_worker",
    ),
    mutant(
        "a COMPLETED job can be retried",
        "db/functions/steer/_retry_jobs.sql",
        "f.state in ('FAILED', 'CANCELLED')",
        "f.state is not null",
        f"{CANCELS}::test_only_a_failed_or_cancelled_job_can_be_retried",
    ),
    mutant(
        "upkeep removes every copy of a lane",
        "db/functions/upkeep/maintain.sql",
        "(kept.retired_at is not null, kept.ctid) < (",
        "(kept.retired_at is not null, kept.ctid) <> (",
        f"{UPKEEP}::test_copies_of_a_lane_are_removed_but_for_one",
    ),
    mutant(
        "a deleted queue loses its lanes",
        "db/functions/queues/delete_queue.sql",
        """    update rota.lanes as l
    set retired_at = rota._now(),
        unkept = null
    where""",
        """    delete from rota.lanes as l
    where""",
        f"{QUEUES}::test_an_enqueue_that_saw_its_lane_before_the_deletion_loses_nothing",
    ),
    mutant(
        "a lane of a deleted queue is taken for one in use",
        "db/functions/enqueue/_use_lane.sql",
        "and l.retired_at is null",
        "",
        f"{QUEUES}::test_a_deleted_queue_is_shown_no_more_and_begins_anew",
    ),
    mutant(
        "upkeep keeps a lane that is not in use for one that is",
        "db/functions/upkeep/maintain.sql",
        "(kept.retired_at is not null, kept.ctid) < (l.retired_at is not null, l.ctid)",
        "kept.ctid < l.ctid",
        f"{QUEUES}::test_a_deleted_queue_is_shown_no_more_and_begins_anew",
    ),
    mutant(
        "a queue is deleted while jobs run there under a limit",
        "db/functions/queues/delete_queue.sql",
        "        where j.queue = delete_queue.queue and j.counted\n",
        "        where false\n",
        f"{QUEUES}::test_a_queue_with_live_jobs_is_not_deleted",
    ),
    mutant(
        "a queue with live jobs is deleted",
        "db/functions/queues/delete_queue.sql",
        "        where j.queue = delete_queue.queue and (",
        "        where false and (",
        f"{QUEUES}::test_a_queue_with_live_jobs_is_not_deleted",
    ),
    mutant(
        "any of two finishes of a pair in a batch counts",
        "db/functions/finish/_end_attempts.sql",
        "order by u.job_id, u.token, u.place",
        "order by u.job_id, u.token, u.place desc",
        f"{FINISHES}::test_of_a_pair_that_comes_twice_in_a_batch_the_first_counts",
    ),
    mutant(
        "a null payload of a bulk becomes an empty object",
        "db/functions/enqueue/enqueue_jobs.sql",
        "if jobs @? '$[*].payload ? (@ == null)' then",
        "if false then",
        f"{ENQUEUES}::test_a_payload_that_is_null_is_kept_apart_from_none",
    ),
    mutant(
        "a schedule may end before the start that it keeps",
        "db/functions/schedules/schedule_job.sql",
        """    v_schedule.trigger_requested_at := v_old.trigger_requested_at;
    perform rota._check_span(v_schedule.starts_at, ends_at);""",
        """    v_schedule.trigger_requested_at := v_old.trigger_requested_at;""",
        f"{LIFE}::test_an_end_before_the_start_that_is_kept_is_refused_by_name",
    ),
    mutant(
        "retention drops weeks that are still to be kept",
        "db/functions/upkeep/_expired_weeks.sql",
        "where p.ends_at <= older_than",
        "where p.ends_at <= older_than + interval '700 days'",
        f"{UPKEEP}::test_retention_drops_old_weeks_and_never_a_live_job",
    ),
    mutant(
        "who reads while rows move to a new week misses them",
        "db/functions/upkeep/_keep_weeks.sql",
        "    execute format('lock table only rota.%I in access exclusive mode', parent);\n",
        "    null;\n",
        f"{WEEKS}::test_who_reads_while_rows_move_to_their_week_sees_them",
    ),
    mutant(
        "a week that cannot be dropped keeps all others",
        "db/functions/upkeep/_drop_partitions.sql",
        "                raise warning 'rota.% could not be dropped: %',",
        "                raise exception 'rota.% could not be dropped: %',",
        f"{UPKEEP}::test_a_week_that_cannot_be_dropped_is_named_and_stops_no_other",
    ),
    mutant(
        "a retention that is raised again makes a false alarm",
        "db/functions/upkeep/_drop_partitions.sql",
        "s.kept_since < v_end",
        "s.kept_since > v_end",
        f"{UPKEEP}::test_a_retention_that_was_lowered_and_raised_again_breaks_no_rule",
    ),
    mutant(
        "a partition is exchanged while a snapshot is older than its copies",
        "db/functions/upkeep/_thin_history.sql",
        "elsif not v_part.open && rota._open_transactions() then",
        "else",
        f"{RETENTION}::test_a_partition_is_not_exchanged_while_a_snapshot_is_older_than_the_copies",
    ),
    mutant(
        "what comes and goes while copies are made is lost",
        "db/functions/upkeep/_swap_partition.sql",
        "if v_changed <> '{}' then",
        "if false then",
        f"{RETENTION}::test_what_comes_and_goes_while_copies_are_made_is_not_lost",
    ),
    mutant(
        "what ran out is taken from a workflow that goes on",
        "db/functions/upkeep/_ran_out.sql",
        "f.%2$I in (select k.id from known as k) as is_known",
        "f.%2$I in (select k.id from known as k) and false as is_known",
        f"{RETENTION}::test_a_workflow_that_goes_on_keeps_its_jobs_and_those_it_depends_on",
    ),
    mutant(
        "nothing is kept of a job on which another came to depend",
        "db/functions/finish/_unkept.sql",
        "            and j.linked is null\n",
        "",
        f"{RETENTION}::test_a_job_on_which_another_came_to_depend_is_kept",
    ),
    mutant(
        "nothing is kept of the jobs of a workflow",
        "db/functions/finish/_unkept.sql",
        "where w.job_id = j.id)",
        "where w.job_id = j.id and false)",
        f"{RETENTION}::test_jobs_of_a_workflow_are_kept_for_those_that_follow",
    ),
    mutant(
        "receipts go before they are counted",
        "db/functions/upkeep/maintain.sql",
        "then least(v_now - interval '2 hours', v_counted)",
        "then v_now - interval '2 hours'",
        f"{RETENTION}::test_receipts_wait_for_their_count_for_a_day",
    ),
    mutant(
        "attempts before a receipt are counted without their names",
        "db/functions/statistics/_count_minutes.sql",
        "            where r.id = a.job_id\n",
        "            where false\n",
        f"{RETENTION}::test_what_left_a_receipt_is_counted_once_with_the_attempts_before_it",
    ),
    mutant(
        "what is to be kept again goes until the next maintain",
        "db/functions/queues/_keep_again.sql",
        "where l.unkept\n",
        "where false\n",
        f"{RETENTION}::test_what_is_to_be_kept_again_is_kept_from_the_next_attempt_on",
    ),
    mutant(
        "maintain waits for longer than it takes to look for a deadlock",
        "db/functions/upkeep/maintain.sql",
        "least(200, s.setting::integer / 2)",
        "200",
        f"{UPKEEP}::test_maintain_waits_for_a_lock_no_longer_than_half_of_deadlock_timeout",
    ),
    mutant(
        "a schedule that skipped slots and ends opens attempts before finished_jobs",
        "db/functions/runs/_record_skipped.sql",
        "    lock table only rota.finished_jobs in row exclusive mode;\n",
        "",
        f"{LOCKS}::test_history_is_opened_in_one_order_and_its_partitions_last",
    ),
    mutant(
        "a list of jobs ends where a page looked no further",
        "app/jobs.py",
        "    looked_no_further = rows[-1][0] is None\n",
        "    looked_no_further = False\n",
        "tests/api/test_job_lists.py::test_a_page_without_jobs_leads_on_to_those_that_lie_further_back",
    ),
    # -- schedules
    mutant(
        "a clock put back makes a slot twice",
        "db/functions/runs/_next_slot.sql",
        "rota._find_slot_after(v_schedule, job.scheduled_for)",
        "rota._find_slot_after(v_schedule, at)",
        f"{LIFE}::test_a_clock_put_back_runs_no_slot_twice",
        f"{RACES}::test_a_clock_put_back_makes_no_slot_of_a_schedule_twice",
    ),
    mutant(
        "an interval drifts by what its runs take",
        "db/functions/slots/_interval_next.sql",
        "make_interval(secs => (v_period - mod(v_elapsed, v_period))::double precision)",
        "make_interval(secs => v_period::double precision)",
        "tests/schedules/test_interval_slot.py::test_the_slot_agrees_with_counting_from_the_start",
    ),
    mutant(
        "a time that the change to summer time skips is forgotten",
        "db/functions/time/_local_instant.sql",
        "        return rota._local_shift(v_before, v_late, _local_instant.time_zone);\n",
        "        return v_late;\n",
        f"{NEXT_RUN}::test_clock_changes_follow_the_rules_of_the_manual",
    ),
    mutant(
        "one schedule that cannot be computed stops the recovery of all jobs",
        "db/functions/slots/_find_slot_after.sql",
        "    when others then\n",
        "    when division_by_zero then\n",
        f"{LIFE}::test_a_zone_that_the_server_no_longer_knows_stops_no_other_job",
    ),
    # -- rights
    mutant(
        "the search path of a function with its owner's rights is left open",
        "db/functions/finish/finish_job.sql",
        "    set search_path = pg_catalog, pg_temp\n",
        "",
        f"{RULES}::test_the_search_path_is_pinned_wherever_it_matters",
    ),
    mutant(
        "everybody may execute every function",
        "db/grants.sql",
        "'{functions, tables, sequences}'",
        "'{tables, sequences}'",
        f"{RULES}::test_nothing_is_granted_to_public_and_no_table_can_be_written",
    ),
    mutant(
        "a producer may finish jobs",
        "db/grants.sql",
        "('function', 'finish_job',          '{rota_worker}'),",
        "('function', 'finish_job',          '{rota_worker, rota_producer}'),",
        f"{RULES}::test_rights_are_those_of_the_checked_in_table",
    ),
    # -- the worker
    mutant(
        "a worker trusts a lease that it could not extend",
        "worker/attempt.py",
        "        if now >= self.trusted_until:\n",
        "        if False:\n",
        f"{WORKER_FAULTS}::test_a_handler_is_told_when_its_lease_can_no_longer_be_trusted",
    ),
    mutant(
        "a job whose lease ran out while it waited is started all the same",
        "worker/crew.py",
        "        if job.cancelled:  # its lease may belong to another by now\n",
        "        if False:\n",
        "tests/worker/test_crew.py::"
        "test_a_job_is_not_started_when_its_lease_can_no_longer_be_trusted",
    ),
    mutant(
        "the heartbeat ends when the worker is asked to stop, and handlers run on",
        "worker/heartbeat.py",
        "        while not self.closed:\n",
        "        while not self.closed and not self._desk.stopping.is_set():\n",
        f"{WORKER_FAULTS}::test_a_stop_lets_running_jobs_end_and_keeps_their_leases",
    ),
    mutant(
        "the heartbeat is slower than the lease",
        "worker/heartbeat.py",
        "self._period = lease / 3",
        "self._period = lease * 3",
        f"{WORKER_CLAIMS}::test_a_long_handler_outlives_its_lease",
    ),
    mutant(
        "a task that the worker does not know is failed instead of handed back",
        "worker/claimer.py",
        "                    self._desk.hand_back(job, reason, *put_off)\n",
        "                    self._desk.start(job)\n"
        "                    self._desk.settle(job, error=reason)\n"
        "                    self._desk.give_up(job)\n",
        f"{ATTEMPTS}::test_an_unknown_task_is_handed_back_uncharged_and_visibly",
    ),
    mutant(
        "a NUL in a result reaches the database",
        "rota/storable.py",
        '    if "\\\\u0000" in text and _NUL_IN_JSON.search(text):\n',
        "    if False:\n",
        f"{ATTEMPTS}::test_a_value_is_refused_by_us_or_taken_by_the_database",
    ),
    mutant(
        "NaN in a result reaches the database",
        "worker/values.py",
        "allow_nan=False",
        "allow_nan=True",
        f"{ATTEMPTS}::test_a_value_is_refused_by_us_or_taken_by_the_database",
    ),
    mutant(
        "nobody takes back what a dead worker held",
        "worker/upkeep.py",
        "            self._often_chore,\n",
        "",
        f"{WORKER_FAULTS}::test_a_job_whose_worker_was_killed_is_run_by_another",
    ),
    mutant(
        "a handler that outlives the grace time keeps its job",
        "worker/process.py",
        "        self._abandon_running()\n        self._crew",
        "        self._crew",
        f"{WORKER_FAULTS}::test_what_outlives_the_grace_time_is_handed_back_uncharged",
    ),
    mutant(
        "a forked child goes on as a second worker",
        "worker/crew.py",
        "            value = registry[job.task].run(job)\n"
        "        except BaseException as error:\n"
        "            if os.getpid() != self._pid:\n"
        "                _end_child(error)\n"
        "            _fail(desk, job, error)\n"
        "            raised = type(error)\n"
        "        else:\n"
        "            if os.getpid() != self._pid:\n",
        "            value = registry[job.task].run(job)\n"
        "        except BaseException as error:\n"
        "            if os.getpid() != self._pid:\n"
        "                _end_child(error)\n"
        "            _fail(desk, job, error)\n"
        "            raised = type(error)\n"
        "        else:\n"
        "            if False:\n",
        f"{ATTEMPTS}::test_a_handler_that_forks_and_returns_twice_finishes_once",
    ),
    mutant(
        "a claim that the database refuses passes for one that found nothing",
        "worker/link.py",
        "        _check(result, encoding)\n        reader",
        "        reader",
        "tests/worker/test_link.py::test_what_the_server_refuses_is_raised",
    ),
    mutant(
        "a stop waits for a claim, however long that takes",
        "worker/branch.py",
        "            self._claims.cancel()\n",
        "",
        f"{WORKER_FAULTS}::test_a_claim_that_takes_long_is_given_up_at_a_stop",
    ),
    mutant(
        "one result that the database refuses is tried for ever and holds up the others",
        "worker/finisher.py",
        "        elif passes(error):\n            self._apart.append(parcel)\n",
        "        elif error.sqlstate:\n            self._apart.append(parcel)\n",
        f"{ATTEMPTS}::test_what_the_database_refuses_fails_that_attempt_alone",
    ),
    mutant(
        "a day is one of the session's time zone",
        "db/functions/time/_later.sql",
        "(moment at time zone interval '0' + span) at time zone interval '0'",
        "moment + span",
        "tests/functions/test_sessions.py::test_a_day_has_24_hours_in_retry_in_and_fixed_delay",
    ),
    mutant(
        "a cursor is kept in the styles of the session",
        "db/functions/claim/cursor/_note_scan.sql",
        "    set datestyle = 'ISO, YMD'\n",
        "",
        "tests/functions/test_sessions.py"
        "::test_a_cursor_is_read_after_the_session_has_changed_its_styles",
    ),
    mutant(
        "the sequence is moved by what it was before its lock",
        "db/functions/upkeep/_heal_job_ids.sql",
        "    alter sequence rota.job_ids owned by none;\n",
        "",
        "tests/functions/test_ids.py::test_ids_that_are_given_meanwhile_are_never_given_again",
    ),
    mutant(
        "a shard gets the ids of its neighbours",
        "db/functions/upkeep/_next_job_id.sql",
        "1 + div(beyond - n.value, s.seqincrement)",
        "1",
        "tests/functions/test_ids.py::test_a_shard_keeps_its_ids",
    ),
    # -- mistakes that went unnoticed once
    mutant(
        "a new run of a schedule keeps the progress of the one before",
        END,
        "progress = case d.verdict when 'SAME RUN' then d.progress end,",
        "progress = d.progress,",
        f"{COLUMNS}::test_the_next_run_of_a_schedule_begins_anew",
    ),
    mutant(
        "misfire all runs one slot more than its cap",
        "db/functions/runs/_missed_slots.sql",
        "if v_later < v_most and",
        "if v_later <= v_most and",
        f"{LIFE}::test_of_the_slots_that_were_missed_as_many_run_as_the_cap_says",
    ),
    Mutant(
        "a batch of heartbeats takes any of its tokens for any of its leases",
        "db/functions/lease/heartbeat_jobs.sql",
        (
            (
                "        where j.ctid = any(v_held)\n"
                "            and (j.id, j.token) in (\n"
                "                select u.job_id, u.token"
                " from unnest(job_ids, tokens) as u(job_id, token)\n"
                "            )\n",
                "        where j.ctid = any(v_held)\n",
            ),
        ),
        (f"{FINISHES}::test_a_batch_of_heartbeats_does_not_take_one_jobs_token_for_another",),
    ),
    mutant(
        "a run of a schedule is retried although its worker said that it must not be",
        END,
        "when h.outcome <> 'SUCCEEDED' and retry and h.attempt",
        "when h.outcome <> 'SUCCEEDED' and (retry or h.schedule_type <> 'ONE_TIME') and h.attempt",
        f"{LIFE}::test_a_run_that_must_not_be_retried_is_followed_by_the_next",
    ),
    mutant(
        "a worker that stops keeps the jobs that it has not started",
        "worker/crew.py",
        "        self._desk.floor.hand_back_ready(STOPPED)\n",
        "",
        "tests/worker/test_crew.py"
        "::test_a_stop_hands_back_what_was_not_started_while_the_rest_still_runs",
    ),
    mutant(
        "a progress report within a second of the last is dropped",
        "worker/heartbeat.py",
        "            if clock() < job.news_due:\n",
        "            if clock() < job.news_due:\n"
        "                self._desk.with_news.discard(job)\n",
        f"{ATTEMPTS}::test_of_reports_that_follow_each_other_quickly_the_last_is_stored",
    ),
    mutant(
        "configuring a queue resets the timeout that it was not given",
        "db/functions/queues/configure_queue.sql",
        "timeout = v_after.timeout,",
        "timeout = configure_queue.timeout,",
        f"{QUEUES}::test_each_setting_can_be_changed_alone_and_leaves_all_others",
    ),
    mutant(
        "a resumed schedule keeps the attempts of the run that was given up",
        "db/functions/schedules/resume_schedule.sql",
        "attempt = case when v_slot <> v_job.scheduled_for then 0 else j.attempt end",
        "attempt = j.attempt",
        f"{COLUMNS}::test_a_retry_that_a_slot_overtook_in_a_pause_gives_way_to_a_new_run",
    ),
    mutant(
        "saving a schedule forgets that a run was asked for",
        "db/functions/schedules/schedule_job.sql",
        "    v_schedule.trigger_requested_at := v_old.trigger_requested_at;\n",
        "",
        f"{LIFE}::test_saving_a_schedule_anew_keeps_a_trigger_that_was_asked_for",
    ),
    mutant(
        "what finishes waits for a row that somebody else has locked",
        "worker/finisher.py",
        "        if error.sqlstate == LOCKED:\n            self._part_locked(parcel)\n        elif",
        "        if",
        f"{THREADS}::test_what_finishes_beside_a_locked_row_is_told_at_once",
    ),
    mutant(
        "progress that meets a lock is dropped",
        "worker/heartbeat.py",
        "                self._desk.with_news.add(job)\n",
        "",
        f"{THREADS}::test_progress_of_a_locked_row_is_stored_once_it_is_free",
    ),
    mutant(
        "a recovery that ran out of time asks for as much again",
        "worker/link.py",
        "            if error.sqlstate == OUT_OF_TIME:\n                self.size = max",
        "            if False:\n                self.size = max",
        f"{THREADS}::test_a_recovery_that_ran_out_of_time_asks_for_half",
    ),
    mutant(
        "a place that an overrun handler holds is not shown",
        "worker/desk.py",
        "        self.overrun.add(job)  # first, so that give_up comes after it\n",
        "",
        f"{THREADS}::test_places_that_overrun_handlers_hold_are_shown",
    ),
    mutant(
        "a forked child takes a signal as its parent does",
        "worker/surroundings.py",
        "        signal.signal(number, signal.SIG_DFL)\n",
        "        pass\n",
        "tests/worker/test_hostile.py::test_a_forked_child_is_no_worker",
    ),
    # -- between two looks
    mutant(
        "a cancel looks once for a job that may be on its way back",
        "db/functions/steer/cancel_job.sql",
        "for v_look in 1..2 loop",
        "for v_look in 1..1 loop",
        f"{RACES}::test_a_cancel_whose_job_comes_back_between_its_two_looks_finds_it",
    ),
    mutant(
        "an enqueue answers nothing when the holder of its key ends meanwhile",
        "db/functions/enqueue/enqueue_job.sql",
        "        exit when found;\n",
        "        exit;\n",
        f"{RACES}::test_an_enqueuer_whose_key_s_holder_ends_between_its_two_looks_makes_the_job",
    ),
    mutant(
        "a bulk takes its keys in the order of its jobs",
        "db/functions/enqueue/enqueue_jobs.sql",
        KEYS_IN_ORDER,
        "order by t.place",
        f"{RACES}::test_a_bulk_takes_its_keys_in_order_whatever_the_order_of_its_jobs",
    ),
    mutant(
        "of equal keys in a bulk any job is made",
        "db/functions/enqueue/enqueue_jobs.sql",
        KEYS_IN_ORDER,
        f"{KEYS_IN_ORDER} desc",
        f"{RACES}::test_of_many_jobs_of_a_bulk_with_one_key_the_first_is_made",
    ),
    mutant(
        "a retry of a paused schedule tells a time that never comes",
        END,
        "select d.id, d.token, d.new_state, nullif(d.new_run_at, 'infinity')",
        "select d.id, d.token, d.new_state, d.new_run_at",
        f"{LIFE}::test_a_retry_of_a_run_that_was_paused_meanwhile_waits_for_no_time_that_one_can_name",
    ),
    mutant(
        "a retry of a paused schedule runs all the same",
        END,
        "when d.verdict = 'SAME RUN' and (d.next).run_at = 'infinity' then 'infinity'\n",
        "\n",
        f"{LIFE}::test_a_retry_of_a_run_that_was_paused_meanwhile_waits_for_no_time_that_one_can_name",
    ),
    # -- many jobs of one task
    mutant(
        "many jobs of one task are claimed in any order",
        "db/functions/enqueue/enqueue_many.sql",
        "from jsonb_array_elements(payloads) as e(payload)",
        "from (select * from jsonb_array_elements(payloads) as a(payload) order by random())"
        " as e(payload)",
        f"{ENQUEUES}::test_many_jobs_of_one_task_come_in_the_order_of_their_payloads",
    ),
    mutant(
        "many jobs of one task call nobody",
        "db/functions/enqueue/enqueue_many.sql",
        "        perform rota._wake(queue, v_run_at, v_now);\n",
        "",
        f"{WAKING}::test_a_sleeper_is_told_of_a_job_that_is_due_before_it_would_look",
    ),
    mutant(
        "a coroutine is not looked at again when its time is over",
        "worker/crew.py",
        "            self._look_by(running)\n",
        "",
        "tests/worker/test_coroutines.py"
        "::test_a_coroutine_is_cancelled_once_for_each_reason_and_keeps_its_place_until_it_ends",
    ),
    # -- the task http
    mutant(
        "one public address of a name is enough to be called",
        "rota/http.py",
        "for *_, place in found:",
        "for *_, place in found[:1]:",
        f"{HTTP}::test_a_name_that_leads_to_an_address_within_is_not_called",
    ),
    mutant(
        "an address of IPv4 in one of IPv6 is taken for public",
        "rota/http.py",
        "        if inside is not None:\n            yield inside\n            return\n",
        "",
        f"{HTTP}::test_a_name_that_leads_to_an_address_within_is_not_called",
    ),
    mutant(
        "a secret follows a redirect to another origin",
        "rota/http.py",
        "call = call._replace(headers=headers, secrets={}, key=None)",
        "pass",
        f"{HTTP}::test_a_redirect_is_checked_like_the_url_and_takes_no_secret_to_another_origin",
    ),
    mutant(
        "a request is not cut where the answer ends with its connection",
        "rota/http.py",
        "socket.socket.shutdown(self._wire, socket.SHUT_RDWR)",
        "self.sock.shutdown(socket.SHUT_RDWR)",
        f"{HTTP}::test_an_answer_that_drips_ends_in_time",
    ),
    mutant(
        "what a session has set itself is a cursor",
        "db/functions/claim/cursor/_lane_cursor.sql",
        "        and v_cursor.swept_at <= at + interval '1 minute'\n",
        "",
        "tests/functions/test_shared_cursor.py"
        "::test_what_a_session_has_set_itself_is_shared_with_nobody_and_stops_nobody",
    ),
    mutant(
        "a worker goes on with its chores in a session that nobody knows of",
        "worker/upkeep.py",
        "if not self._link.has(self._session):\n                    break",
        "if False:\n                    break",
        f"{THREADS}::test_no_chore_is_done_in_a_session_that_was_not_announced",
    ),
    mutant(
        "a request ends only when nothing comes for so long",
        "rota/http.py",
        "    timer.start()\n",
        "",
        f"{HTTP}::test_an_answer_that_drips_ends_in_time",
    ),
    mutant(
        "a secret that the server shows is kept",
        "rota/http.py",
        'body = body.replace(secret, b"***")',
        "pass",
        f"{HTTP}::test_a_worker_runs_it",
    ),
    # -- who may do what
    mutant(
        "a revoked token is still taken",
        "db/functions/rights/authenticate_token.sql",
        "        and t.revoked_at is null\n",
        "",
        f"{TOKENS}::test_a_token_that_is_not_valid_is_answered_with_nothing",
    ),
    mutant(
        "an operator makes tokens for roles that he is no member of",
        "db/functions/rights/create_token.sql",
        "    if not rota._may_manage(principal) then",
        "    if false then",
        f"{TOKENS}::test_who_makes_a_token_could_be_its_principal_already",
    ),
    mutant(
        "a member of a role with powers gets a token",
        "db/functions/rights/_bad_principal.sql",
        "pg_has_role(p.oid, r.oid, 'MEMBER')",
        "p.oid = r.oid",
        f"{TOKENS}::test_no_token_is_made_for_a_role_with_powers",
    ),
    mutant(
        "the caller is the login, whatever role was set",
        "db/functions/rights/_caller.sql",
        "coalesce(nullif(current_setting('role'), 'none'), session_user)",
        "session_user::text",
        f"{TOKENS}::test_the_caller_is_the_role_that_was_set_else_the_login",
    ),
    mutant(
        "a request does not run under its principal",
        "app/database.py",
        'database().transaction(g.get("token_hash"), durable)',
        "database().transaction()",
        f"{ACCESS}::test_each_operation_is_open_to_whom_the_table_says",
    ),
    mutant(
        "the API answers a method that is not documented",
        "app/__init__.py",
        'app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False',
        'app.config["PROVIDE_AUTOMATIC_OPTIONS"] = True',
        f"{METHODS}::test_every_path_refuses_every_method_that_is_not_documented",
    ),
    mutant(
        "an escaped slash before a word of ours does what that says",
        "app/paths.py",
        "if len(parts) == 1:",
        "if parts:",
        f"{METHODS}::test_a_slash_that_is_escaped_belongs_to_the_name_of_a_schedule",
    ),
    mutant(
        "who has no token is told which methods a path takes",
        "app/tokens.py",
        "method = request.routing_exception.valid_methods[0]",
        "return True",
        f"{METHODS}::test_who_has_no_token_is_told_of_methods_only_where_nobody_is_asked",
    ),
    mutant(
        "a bulk does not look again at what it has waited for",
        "db/functions/steer/_cancel_jobs.sql",
        "                    ))\n                order by j.id\n                for no key",
        "                    ) or true)\n                order by j.id\n                for no key",
        f"{STEERING}::test_a_bulk_looks_again_at_what_it_has_waited_for",
    ),
    mutant(
        "a bulk retry makes the jobs in the order of their ids",
        "db/functions/steer/_retry_jobs.sql",
        'order by f.unique_key collate "C" nulls first, f.queue collate "C", f.id',
        "order by f.id",
        f"{STEERING}::test_bulks_that_bring_keys_back_in_any_order_never_deadlock",
    ),
    mutant(
        "a bulk meets jobs again that were asked to end",
        "db/functions/steer/cancel_jobs.sql",
        "            and j.cancel_requested_at is null\n",
        "",
        f"{BULK}::test_jobs_that_were_asked_to_end_already_are_not_met_again",
    ),
    mutant(
        "what a filter does not name includes schedules",
        "db/functions/steer/_read_filter.sql",
        "case when not filter ? 'ids' then 'ONE_TIME' end",
        "null",
        f"{BULK}::test_each_key_of_a_filter_narrows_it",
    ),
    # -- walls between tenants
    *(
        mutant(
            f"{door} looks at no wall",
            f"db/functions/{room}/{door}.sql",
            look,
            new,
            NEIGHBOUR,
            f"{WALLS}::test_nothing_that_a_neighbour_calls_changes_anything",
        )
        for room, look, new, doors in (
            (
                "queues",
                "    perform rota._check_wall(queue);\n",
                "",
                ("pause_queue", "resume_queue", "delete_queue", "configure_queue"),
            ),
            ("enqueue", "    perform rota._check_wall(queue);\n", "", ("enqueue_many",)),
            ("enqueue", "        perform rota._check_wall(queue);\n", "", ("enqueue_job",)),
            ("enqueue", "rota._check_wall(q.queue)", "q.queue", ("enqueue_jobs",)),
            ("schedules", "    perform rota._check_wall(queue);\n", "", ("schedule_job",)),
            ("schedules", "    perform rota._check_name(name);\n", "", ("_lock_schedule",)),
            (
                "steer",
                "perform rota._check_job(job_id);",
                "null;",
                ("cancel_job", "retry_job"),
            ),
            ("claim", "queues := rota._within_walls(queues);", "null;", ("claim_next_job",)),
            ("wake", "queues := rota._within_walls(queues);", "null;", ("next_due_in",)),
            ("workers", "queues := rota._within_walls(queues);", "null;", ("bring_forward_jobs",)),
            ("workers", "rota._check_wall(u.queue)", "u.queue", ("announce_worker",)),
            ("queues", "    perform rota._check_no_wall('wall');\n", "", ("wall",)),
            ("queues", "    perform rota._check_no_wall('unwall');\n", "", ("unwall",)),
            (
                "upkeep",
                "    perform rota._check_no_wall('configure_retention');\n",
                "",
                ("configure_retention",),
            ),
            (
                "upkeep",
                "    select rota._check_no_wall('check_invariants');\n",
                "",
                ("check_invariants",),
            ),
        )
        for door in doors
    ),
    mutant(
        "a schedule's name may be a neighbour's",
        "db/functions/schedules/schedule_job.sql",
        "        perform rota._check_name(name);\n",
        "        null;\n",
        NEIGHBOUR,
    ),
    mutant(
        "a schedule that lies elsewhere is overwritten by its name",
        "db/functions/schedules/schedule_job.sql",
        "if found and not rota._sees_queue(v_held.queue) then",
        "if false then",
        f"{WALLS}::test_a_schedule_that_somebody_put_elsewhere_is_neither_shown_nor_changed",
    ),
    mutant(
        "a neighbour's worker is dismissed",
        "db/functions/workers/dismiss_worker.sql",
        " and rota._sees_worker(w.queues)",
        "",
        f"{WALLS}::test_a_worker_has_a_name_of_the_wall_s_or_a_uuid",
    ),
    mutant(
        "who sleeps for a neighbour's queue holds its lock",
        "db/functions/wake/begin_sleep.sql",
        "queues := rota._within_walls(queues);",
        "null;",
        f"{WALLS}::test_a_sleeper_hears_only_of_its_own_queues",
    ),
    mutant(
        "upkeep by a tenant forgets the schedules of the others",
        "db/functions/upkeep/maintain.sql",
        "not exists (select from rota.live_jobs as j where j.id = o.job_id)",
        "not exists (select from rota.jobs as j where j.id = o.job_id)",
        f"{WALLS}::test_upkeep_that_a_tenant_calls_keeps_what_is_of_others",
    ),
    mutant(
        "a key is unique in the whole database",
        "db/deploy.py",
        "        _drop_outlived_indexes(conn, report)\n",
        "",
        f"{WALLS}::test_a_key_is_unique_per_queue_and_tells_nothing_of_another_s",
    ),
    mutant(
        "what a killed deploy left running goes on",
        "db/deploy.py",
        "'1s', false);",
        "'0', false);",
        f"{UPGRADES}::test_a_deploy_of_keys_may_be_killed_at_each_step_and_the_next_one_goes_on",
    ),
    mutant(
        "what is left of an index stays as if it were one",
        "db/migrations/0122_lanes_of_keys.sql",
        "            and not i.indisvalid\n",
        "            and false\n",
        f"{UPGRADES}::test_a_deploy_of_keys_may_be_killed_at_each_step_and_the_next_one_goes_on",
    ),
    mutant(
        "jobs with keys that came before the triggers get no turn",
        "db/triggers.sql",
        "    where j.key is not null;\n",
        "    where false;\n",
        f"{UPGRADES}::test_jobs_with_keys_that_come_before_the_triggers_have_their_turn_with_these",
    ),
    mutant(
        "a prefix is a pattern of LIKE",
        "db/functions/rights/_fits_pattern.sql",
        "starts_with(queue, left(pattern, -1))",
        "queue like left(pattern, -1) || '%'",
        f"{WALLS}::test_a_prefix_is_taken_letter_by_letter",
    ),
    mutant(
        "of two walled roles one lets a queue through",
        "db/functions/rights/_let_through.sql",
        "select coalesce(bool_and(p.fits), true)",
        "select coalesce(bool_or(p.fits), true)",
        f"{WALLS}::test_of_two_walled_roles_both_must_let_a_queue_through",
    ),
    mutant(
        "a wall binds its role alone, and not those who have its rights",
        "db/functions/rights/_binding_walls.sql",
        "pg_has_role(rota._caller()::name, r.oid, 'usage')\n",
        "r.rolname = rota._caller()\n",
        f"{WALLS}::test_a_wall_binds_whoever_has_the_role_s_rights",
    ),
    mutant(
        "a wall binds who could set its role",
        "db/functions/rights/_binding_walls.sql",
        "r.oid, 'usage'",
        "r.oid, 'member'",
        f"{WALLS}::test_a_wall_binds_whoever_has_the_role_s_rights",
    ),
    mutant(
        "a wall binds the schema's owner, who inherits the role",
        "db/functions/rights/_binding_walls.sql",
        "pg_has_role(rota._caller()::name, s.nspowner, 'usage')",
        "false",
        f"{HOSTILE}::test_the_owner_of_the_schema_is_never_bound_but_by_a_role_that_it_sets",
    ),
    mutant(
        "the login of the API hears of the queues of one of its principals only",
        "db/functions/rights/_binding_walls.sql",
        "a.rolname = 'rota_api'",
        "false",
        f"{HOSTILE}::test_the_login_of_the_api_acts_for_all_while_it_is_nobody_yet",
    ),
    mutant(
        "a tenant that has rota_api through its token sees all",
        "db/functions/rights/_binding_walls.sql",
        "                and rota._caller() = session_user\n",
        "",
        f"{HOSTILE}::test_the_login_of_the_api_acts_for_all_while_it_is_nobody_yet",
    ),
    mutant(
        "an operator builds a wall around himself",
        "db/functions/queues/wall.sql",
        "where w.principal = wall.principal\n",
        "where false\n",
        f"{HOSTILE}::test_nobody_builds_a_wall_around_himself",
    ),
    mutant(
        "a reader's own function sees every job before the wall does",
        "db/views.sql",
        "create or replace view rota._walled_jobs with (security_barrier) as",
        "create or replace view rota._walled_jobs as",
        f"{WALLS}::test_every_view_is_a_barrier_while_there_are_walls",
    ),
    mutant(
        "a worker's number of jobs counts those of neighbours",
        "db/views.sql",
        """        and (
            (select rota.visible_queues()) is null
            or j.queue = any((select rota.visible_queues())::text[])
        )
""",
        "",
        f"{WALLS}::test_a_worker_of_several_tenants_is_shown_to_none_and_counts_own_jobs",
    ),
    mutant(
        "those who wait for a queue stand in one line, whoever may see it",
        "app/waiting.py",
        'principal = g.get("principal")',
        "principal = None",
        f"{WORK_RACES}::test_who_waits_for_a_queue_that_it_cannot_see_keeps_no_job_from_its_owner",
    ),
    mutant(
        "requests that wait ask again and again while the database is away",
        "app/waiting.py",
        "max(self._ended_at + ENDED_SECONDS, self._try_again_at)",
        "self._ended_at + ENDED_SECONDS",
        f"{WORK_RACES}::test_requests_that_wait_for_an_end_cost_nothing_while_the_database_is_away",
    ),
    mutant(
        "requests that wait hang with a database that says nothing",
        "app/database.py",
        "self._lent[conn] = time.monotonic() + seconds",
        "self._lent[conn] = time.monotonic() + 1000 * seconds",
        f"{WORK_RACES}::test_requests_that_wait_are_let_go_in_time_by_a_database_that_says_nothing",
    ),
    mutant(
        "requests that wait hang with a database that falls silent as it is reached",
        "app/database.py",
        "with self.bounded(conn, LONGEST_SET_UP):",
        "with contextlib.nullcontext():",
        f"{WORK_RACES}"
        "::test_requests_that_wait_are_let_go_by_a_database_that_falls_silent_as_it_is_reached",
    ),
    mutant(
        "behind a pooler our role stays on a session that is shared",
        "app/waiting.py",
        'self._conn.execute("set local role rota_api")',
        'self._conn.execute("set role rota_api")',
        f"{WORK_RACES}::test_behind_a_pooler_no_role_stays_on_a_session_that_is_shared",
    ),
    mutant(
        "one principal may wait for as many queues as all together",
        "app/waiting.py",
        "len(its | names) > MOST_OF_ONE",
        "len(its | names) > MOST_QUEUES",
        f"{WORK_RACES}::test_the_made_up_names_of_one_principal_leave_room_for_its_neighbours",
    ),
    mutant(
        "who was called and hung up passes for one who looks",
        "app/server.py",
        "            if not stays:\n                self._has_waited",
        "            if wait is None:\n                self._has_waited",
        f"{WORK_RACES}::test_who_was_called_and_hung_up_does_not_pass_for_one_who_looks",
    ),
    mutant(
        "a lost lease keeps back all that a client that hung up was given",
        "app/work.py",
        "                if conn.closed:\n",
        "                if error:\n",
        f"{WORK_RACES}::test_of_what_a_client_that_hung_up_was_given_each_is_handed_back_by_itself",
    ),
    mutant(
        "a key of a body may stand twice",
        "app/inputs.py",
        "            object_pairs_hook=_object,\n",
        "",
        "tests/api/test_hostile_requests.py::test_a_body_that_is_no_usable_json_is_refused",
    ),
    mutant(
        "a token in a path is logged",
        "rota/logs.py",
        'TOKEN.sub("***", text)',
        "text",
        f"{CANARIES}::test_no_secret_that_a_request_brings_comes_out_elsewhere",
    ),
    mutant(
        "a URL that cannot be read is repeated",
        "rota/tokens.py",
        "                writable(url), autocommit",
        "                url, autocommit",
        f"{CANARIES}::test_no_command_repeats_a_password",
    ),
    mutant(
        "a server that answers no HTTP shows its secret in the error of a job",
        "rota/http.py",
        'words = words.replace(secret.decode(), "***")',
        "pass",
        f"{CANARIES}::test_no_secret_of_a_worker_comes_out",
    ),
    mutant(
        "over HTTP a claim takes nothing back",
        "app/work.py",
        '    current_app.extensions["upkeep"].claimed_by(g.get("token_hash"))\n',
        "",
        f"{API_UPKEEP}::test_a_job_whose_worker_over_http_has_died_comes_back_though_no_other_worker_runs",
    ),
    mutant(
        "over HTTP a claim that was refused has upkeep done in its name",
        "app/work.py",
        '    current_app.extensions["announcements"].announce(',
        '    current_app.extensions["upkeep"].claimed_by(g.get("principal"))\n'
        '    current_app.extensions["announcements"].announce(',
        f"{API_UPKEEP}::test_nothing_is_done_in_the_name_of_one_who_may_not_claim",
    ),
    mutant(
        "over HTTP the worker in bash takes a command that failed for one that did not",
        "examples/worker.sh",
        "    [[ $code == 0* ]] ||",
        "    true ||",
        f"{EXAMPLES}::test_a_failure_is_an_error_and_so_is_a_result_that_cannot_be_stored",
    ),
    mutant(
        "over HTTP the worker in bash lets its lease run out",
        "examples/worker.sh",
        '-t "$beat" part',
        "part",
        f"{EXAMPLES}::test_a_lease_is_extended_while_the_work_goes_on",
    ),
    mutant(
        "over HTTP the worker in Node waits on for a job when it is to stop",
        "examples/worker.mjs",
        "  for (const request of waits) request.abort()\n",
        "",
        f"{EXAMPLES}::test_told_to_stop_it_leaves_a_wait_at_once_and_finishes_what_it_has",
    ),
    mutant(
        "over HTTP the worker in Node works on when its job was cancelled",
        "examples/worker.mjs",
        "else if (found.cancel_requested)",
        "else if (false)",
        f"{EXAMPLES}::test_a_job_that_is_cancelled_or_takes_too_long_is_stopped",
    ),
    mutant(
        "a tenant that sets rota_operator is let out",
        "db/functions/rights/_binding_walls.sql",
        "or (select rota._acts_for_itself()) and rota._came_by(r.oid)",
        "or false",
        f"{HOSTILE}::test_a_role_of_a_tenant_s_role_does_not_get_it_out",
    ),
    mutant(
        "who does not inherit goes round a wall by the roles of the walled one",
        "db/functions/rights/_came_by.sql",
        "and e.caller not in (select y.role from way as y)",
        "and false",
        f"{HOSTILE}::test_who_does_not_inherit_is_bound_in_each_role_that_is_reached_through_a_walled"
        "_one",
    ),
    mutant(
        "the login of the API is bound by all of its principals",
        "db/functions/rights/_acts_for_itself.sql",
        "r.rolname = 'rota_api'",
        "false",
        f"{HOSTILE}::test_the_login_of_the_api_is_bound_by_the_role_that_it_sets_alone",
    ),
    mutant(
        "a tenant makes a token of rota_operator",
        "db/functions/rights/_may_manage.sql",
        "where not pg_has_role(r.oid, b.oid, 'USAGE')",
        "where false",
        f"{HOSTILE}::test_a_tenant_makes_no_token_that_sees_more_than_it_does",
    ),
    mutant(
        "a tenant is shown the tokens of the house",
        "db/views.sql",
        "and not pg_has_role(r.oid, b.oid, 'USAGE')",
        "and false",
        f"{HOSTILE}::test_tokens_of_the_house_and_of_roles_that_are_gone_are_not_there_for_a_tenant",
    ),
    mutant(
        "a worker that announces a neighbour's name and dies takes its jobs",
        "db/functions/upkeep/recover_jobs.sql",
        "where w.worker = j.worker and j.queue = any(w.queues)",
        "where w.worker = j.worker",
        f"{HOSTILE}::test_who_announces_a_neighbour_s_worker_and_dies_takes_no_job_from_it",
    ),
    mutant(
        "a job behind a wall is refused after one look",
        "db/functions/rights/_check_job.sql",
        "        if found then\n            return;\n        end if;\n\n        if v_look",
        "        if found then\n            return;\n        end if;\n\n"
        "        exit when exists (select from rota.live_jobs as j where j.id = job_id);\n\n"
        "        if v_look",
        f"{HOSTILE}::test_a_job_behind_a_wall_is_looked_for_as_often_as_one_that_is_missing",
    ),
    mutant(
        "a worker's name that a neighbour tried is taken for announced",
        "app/work.py",
        '(g.get("principal"), worker)',
        "(None, worker)",
        "tests/api/test_neighbours.py"
        "::test_a_name_of_a_worker_that_a_neighbour_tries_keeps_it_from_nothing",
    ),
    *(
        mutant(f"{view} shows what lies behind a wall", "db/views.sql", old, new, UNSEEN)
        for view, old, new in (
            (
                "jobs",
                "or j.queue = any((select rota.visible_queues())::text[])\n    )\norder by",
                "or true\n    )\norder by",
            ),
            (
                "job_executions",
                "from rota._all_job_executions as e\nwhere (select rota.visible_queues()) is null",
                "from rota._all_job_executions as e\nwhere true",
            ),
            (
                "executions",
                "from rota._all_executions as e\nwhere (select rota.visible_queues()) is null",
                "from rota._all_executions as e\nwhere true",
            ),
            (
                "schedule_status",
                "s.job_id = j.id\n"
                "where coalesce(cardinality((select rota.visible_queues())), 0) >= 0\n"
                "    and (\n        (select rota.visible_queues()) is null",
                "s.job_id = j.id\nwhere (true",
            ),
            (
                "queue_status",
                "q.name = n.queue\n"
                "where coalesce(cardinality((select rota.visible_queues())), 0) >= 0\n"
                "    and (\n        (select rota.visible_queues()) is null",
                "q.name = n.queue\nwhere (true",
            ),
            (
                "worker_status",
                "or w.queues <> '{}' and w.queues <@ (select rota.visible_queues())",
                "or true",
            ),
            (
                "walls",
                "or w.principal = any((select rota.binding_principals())::text[])",
                "or true",
            ),
        )
    ),
    mutant(
        "the first wall leaves the views open",
        "db/functions/rights/_walls_changed.sql",
        "perform rota._guard_views();",
        "null;",
        f"{WALLS}::test_the_views_ask_for_walls_from_the_first_to_the_last",
    ),
    mutant(
        "the last wall is taken away without a look at one that is being made",
        "db/functions/rights/_lock_walls.sql",
        "lock table rota.queue_walls in share row exclusive mode;",
        "null;",
        f"{WALLS}::test_the_last_wall_is_taken_away_while_another_is_made",
    ),
    mutant(
        "a deploy leaves the views open",
        "db/functions/rights/_guard_views.sql",
        "if exists (select from rota.queue_walls) then",
        "if exists (select from rota.queue_walls) and pg_trigger_depth() > 0 then",
        f"{WALLS}::test_a_deploy_finds_the_views_guarded_and_leaves_them_so",
    ),
    mutant(
        "a token that was revoked is taken while it is remembered",
        "db/functions/rights/principal_of.sql",
        "        and t.revoked_at is null\n",
        "",
        "tests/api/test_tokens.py"
        "::test_the_first_token_closes_a_running_api_and_a_revoked_one_is_refused_at_once",
    ),
    mutant(
        "the API stays open for a while when the first token is made",
        "db/functions/rights/principal_of.sql",
        "hash is null and not rota.needs_token()",
        "hash is null",
        "tests/api/test_tokens.py"
        "::test_the_first_token_closes_a_running_api_and_a_revoked_one_is_refused_at_once",
    ),
    mutant(
        "an idle worker makes calls only to count",
        "worker/upkeep.py",
        "            self._often_chore,\n",
        "            self._often_chore,\n"
        '            Chore("take_census", lambda: 10 * len(self._link.once('
        'lambda conn: call(conn, "take_census")))),\n',
        f"{THREADS}::test_what_upkeep_asks_of_the_database_is_no_more_than_before_there_were_statistics",
    ),
    mutant(
        "what was recovered waits for a count",
        "db/functions/upkeep/do_chores.sql",
        "if v_recovered > 0 then",
        "if v_recovered is null then",
        f"{UPKEEP}::test_chores_are_recovery_first_and_counting_when_there_is_nothing_to_recover",
    ),
    mutant(
        "a house in which nothing happens writes that down every few seconds",
        "db/functions/upkeep/do_chores.sql",
        "else interval '1 minute'",
        "else interval '9 seconds'",
        f"{UPKEEP}::test_an_empty_house_is_counted_once_a_minute_and_one_with_jobs_at_once",
    ),
    mutant(
        "a count that fails stops recovery",
        "db/functions/upkeep/do_chores.sql",
        "raise warning 'what waits and runs could not be counted: %', sqlerrm;",
        "raise;",
        f"{UPKEEP}::test_what_cannot_be_counted_stops_nothing_else",
    ),
    mutant(
        "each finish in a new week corrects its index by time",
        "db/functions/upkeep/_make_partition.sql",
        "    perform brin_desummarize_range(v_index, 0);\n",
        "",
        f"{STATISTICS}::test_a_finish_does_not_touch_the_index_by_time",
    ),
    mutant(
        "statistics do not wait for who has read the clock and has no id yet",
        "db/functions/statistics/roll_up.sql",
        "v_chore.readers = '{}'",
        "true",
        f"{STATISTICS}::test_a_finish_that_read_the_clock_and_waits_for_its_row_is_waited_for",
    ),
    mutant(
        "statistics do not wait for who finished a job and may commit yet",
        "db/functions/statistics/roll_up.sql",
        "pg_snapshot_xmin(pg_current_snapshot()) > v_chore.xid",
        "v_chore.xid is not null",
        f"{STATISTICS}::test_a_finish_that_commits_late_holds_its_minute_up_and_is_counted",
    ),
    mutant(
        "statistics count a minute at its very end",
        "db/functions/statistics/roll_up.sql",
        "v_now - interval '15 s'",
        "v_now",
        f"{STATISTICS}::test_a_minute_is_not_counted_before_it_is_over",
    ),
    mutant(
        "statistics take another server's id for one of this",
        "db/functions/statistics/roll_up.sql",
        "v_chore.xid >= pg_snapshot_xmax(pg_current_snapshot())",
        "false",
        f"{STATISTICS}::test_a_row_of_the_chore_from_another_server_or_none_holds_nothing_up",
    ),
    mutant(
        "statistics do not notice that the clock was put back",
        "db/functions/statistics/_recount_from.sql",
        "when at >= until + interval '15 s' then until",
        "when true then until",
        f"{STATISTICS}::test_a_clock_that_is_put_back_has_its_minutes_counted_anew",
    ),
    mutant(
        "statistics count what comes again twice",
        "db/functions/statistics/_forget_minutes.sql",
        "set ended = t.ended - l.ended",
        "set ended = t.ended",
        f"{STATISTICS}::test_a_clock_that_is_put_back_has_its_minutes_counted_anew",
    ),
    mutant(
        "statistics keep one minute of an hour",
        "db/functions/statistics/_thin_statistics.sql",
        "sum(g.ended), sum(g.gave_up)",
        "max(g.ended), max(g.gave_up)",
        f"{STATISTICS}::test_old_minutes_become_hours_and_are_kept_as_long_as_history",
    ),
    mutant(
        "statistics go on the names of a job that is gone",
        "db/functions/statistics/_count_minutes.sql",
        "where l.id = a.job_id",
        "where false",
        f"{STATISTICS}::test_a_minute_is_counted_by_queue_task_and_outcome",
    ),
    mutant(
        "a census is taken whenever somebody asks",
        "db/functions/statistics/_is_census_due.sql",
        "least(times * c.took, interval '10 minutes')",
        "interval '0'",
        f"{STATISTICS}::test_a_census_is_taken_no_oftener_than_a_hundred_times_what_it_takes",
    ),
    mutant(
        "a census waits for another",
        "db/functions/chores/_take_chore.sql",
        "for no key update skip locked",
        "for no key update",
        f"{STATISTICS}::test_of_two_who_take_a_census_one_does_and_the_other_does_not_wait",
    ),
    mutant(
        "statistics go on from a note of before the clock was put back",
        "db/functions/statistics/roll_up.sql",
        "        or v_chore.ready_until > v_ready\n",
        "",
        f"{STATISTICS}"
        "::test_a_clock_that_is_put_back_while_minutes_are_waited_for_has_them_waited_for_anew",
    ),
    mutant(
        "statistics wait for whoever tidies up among live jobs",
        "db/functions/statistics/_clock_readers.sql",
        "h.mode in ('RowShareLock', 'RowExclusiveLock')",
        "h.mode <> 'AccessShareLock'",
        f"{STATISTICS}::test_who_only_reads_or_tidies_or_came_later_holds_nothing_up",
    ),
    # -- headers and traces
    mutant(
        "a backfill goes without the headers of its schedule",
        "db/functions/schedules/backfill_schedule.sql",
        "headers => v_job.headers",
        "headers => null",
        f"{HEADERS}::test_headers_come_with_whatever_is_run",
    ),
    mutant(
        "a retry loses the headers",
        "db/functions/steer/_retry_jobs.sql",
        "f.last_error, f.created_at, f.headers,\n            f.key, nullif",
        "f.last_error, f.created_at, null,\n            f.key, nullif",
        f"{HEADERS}::test_headers_come_with_whatever_is_run",
    ),
    mutant(
        "a job that is cancelled while it waits loses its headers",
        "db/functions/runs/_retire_job.sql",
        "at, job.headers",
        "at, null",
        f"{HEADERS}::test_headers_come_with_whatever_is_run",
    ),
    mutant(
        "a job that fails loses its headers",
        END,
        "v_now, d.headers",
        "v_now, null",
        f"{COLUMNS}::test_the_last_failure_keeps_all_that_the_job_was",
    ),
    mutant(
        "a job that completes loses its headers",
        "db/functions/finish/_complete_jobs.sql",
        "        g.headers, g.key\n",
        "        null, g.key\n",
        f"{COLUMNS}::test_a_success_keeps_all_that_the_job_was_and_adds_its_result",
    ),
    mutant(
        "a schedule keeps headers that it is saved without",
        "db/functions/schedules/schedule_job.sql",
        "        headers = schedule_job.headers,\n",
        "        headers = coalesce(schedule_job.headers, j.headers),\n",
        f"{HEADERS}::test_a_schedule_that_is_saved_without_headers_has_none_and_that_is_a_change",
    ),
    mutant(
        "a bulk stores headers that are empty",
        "db/functions/enqueue/enqueue_jobs.sql",
        "nullif(i.headers, '{}')",
        "i.headers",
        f"{HEADERS}::test_headers_without_a_name_are_none",
    ),
    mutant(
        "a claim takes any number of bytes as headers",
        CLAIM,
        " + coalesce(rota._most_bytes(j.headers), 0)",
        "",
        f"{HEADERS}::test_a_claim_counts_headers_among_the_bytes_that_it_may_take",
    ),
    mutant(
        "an attempt is part of the trace of its enqueue",
        "rota/tracing.py",
        "            context=context.Context(),\n",
        "            context=_propagator().extract(job.headers),\n",
        f"{TRACES}::test_an_attempt_is_a_trace_of_its_own_with_a_link_to_the_enqueue",
    ),
    mutant(
        "a context that a producer names is overwritten",
        "rota/tracing.py",
        " or TRACEPARENT in given",
        "",
        f"{TRACES}::test_a_context_that_is_given_is_kept_and_linked_to",
    ),
    mutant(
        "an enqueue is refused because it is traced",
        "rota/tracing.py",
        "if size <= MOST_BYTES",
        "if size",
        f"{TRACES}::test_a_trace_never_makes_headers_too_large",
    ),
    mutant(
        "who does not trace loads OpenTelemetry",
        "rota/tracing.py",
        'api = sys.modules.get("opentelemetry.trace")',
        'api = __import__("opentelemetry.trace").trace',
        f"{TRACES}::test_who_does_not_trace_imports_nothing_of_it",
    ),
    mutant(
        "a worker ends without its last spans",
        "worker/__main__.py",
        "    tracing.flush()\n",
        "",
        f"{WORKER_TRACES}::test_a_worker_links_to_the_enqueue_and_sends_its_last_spans",
    ),
    mutant(
        "an exporter that is broken ends a thread of handlers",
        "worker/crew.py",
        "        span.end(job.error, raised)\n    except BaseException as error:",
        "        span.end(job.error, raised)\n    except LookupError as error:",
        f"{WORKER_TRACES}::test_a_broken_exporter_ends_no_attempt_and_no_worker",
    ),
    mutant(
        "the lines of a coroutine do not tell of which job they are",
        "worker/crew.py",
        "        desk = self._of(job)\n        current_job.set(job)\n",
        "        desk = self._of(job)\n",
        f"{WORKER_TRACES}::test_a_worker_links_to_the_enqueue_and_sends_its_last_spans",
    ),
    mutant(
        "a line tells of the job that its thread ran before",
        "worker/crew.py",
        "        current_job.set(None)\n",
        "",
        f"{WORKER_TRACES}::test_what_a_thread_says_between_two_jobs_is_of_none",
    ),
    *(
        mutant(what, f"db/functions/diagnosis/{name}.sql", old, new, f"{where}::{test}")
        for what, name, old, new, where, test in (
            (
                "a job is explained to a neighbour once it has ended",
                "explain_job",
                " and (v_visible is null or f.queue = any(v_visible))",
                "",
                WALLS,
                "test_what_a_neighbour_has_answers_as_what_there_is_not",
            ),
            (
                "who locks a job is named to a neighbour",
                "_explain_lock",
                "when is_walled then 'Another transaction holds its row'",
                "when false then 'Another transaction holds its row'",
                EXPLAINS,
                "test_who_is_behind_a_wall_gets_the_reasons_of_his_own_jobs_and_nobody_s_name",
            ),
            (
                "the id that was given last is told to a neighbour",
                "_explain_missing",
                "            when is_walled then ''\n",
                "",
                EXPLAINS,
                "test_who_is_behind_a_wall_gets_the_reasons_of_his_own_jobs_and_nobody_s_name",
            ),
            (
                "a foreign key is blamed for a job that waits",
                "_explain_lock",
                "blocks and not h.only_refers",
                "blocks",
                EXPLAINS,
                "test_a_foreign_key_that_is_being_written_is_not_said_to_block",
            ),
            (
                "a prepared transaction is not seen to hold a job",
                "_row_lockers",
                "t.pid is distinct from pg_backend_pid()",
                "t.pid <> pg_backend_pid()",
                EXPLAINS,
                "test_a_prepared_transaction_that_was_forgotten_is_named_with_its_remedy",
            ),
            (
                "of several who hold a job nobody is named",
                "_row_holders",
                "where m.mode <> 'keysh'",
                "where m.mode = 'keysh'",
                EXPLAINS,
                "test_each_of_several_who_lock_a_row_is_named",
            ),
            (
                "a worker that fell silent counts as one",
                "_explain_service",
                "        and w.last_seen_at > at - interval '90 seconds'\n"
                "        and job.queue = any(w.queues);",
                "        and job.queue = any(w.queues);",
                EXPLAINS,
                "test_a_worker_that_went_silent_does_not_serve",
            ),
            (
                "a job whose handler is missing seems to have failed",
                "_explain_time",
                "m.job_id = job.id and m.until = job.run_at",
                "m.job_id = job.id and m.until < job.run_at",
                EXPLAINS,
                "test_a_job_that_was_handed_back_for_want_of_a_handler_is_told_from_one_that_failed",
            ),
            (
                "a queue's name is a command in the shell of who copies a remedy",
                "_shell_word",
                "    select case\n",
                "    select case when true then word\n",
                EXPLAINS,
                "test_a_remedy_that_is_copied_into_a_shell_says_no_more_than_the_name_of_a_queue",
            ),
            (
                "the doctor goes by a census of any age",
                "doctor",
                "rota._census_at(v_now, max_age)",
                "rota._census_at(v_now, interval '1 day')",
                DOCTOR,
                "test_the_doctor_goes_by_a_census_that_is_new_and_counts_for_himself_else",
            ),
            (
                "the doctor counts whatever the workers have counted",
                "doctor",
                "rota._census_at(v_now, max_age)",
                "null",
                DOCTOR,
                "test_the_doctor_goes_by_a_census_that_is_new_and_counts_for_himself_else",
            ),
            (
                "a job counts all that runs though there is a census",
                "_explain_service",
                "    if v_census_at is not null then\n",
                "    if false then\n",
                EXPLAINS,
                "test_what_runs_is_read_off_a_census_that_is_new_and_counted_else",
            ),
            (
                "who works in SQL seems to serve nobody until the next census",
                "_explain_service",
                "where o.state = 'RUNNING' and o.lease_until >= at\n        ) and",
                "where false\n        ) and",
                EXPLAINS,
                "test_a_queue_that_somebody_works_in_sql_is_served_by_what_he_runs_at_once",
            ),
            (
                "what holds statistics up is not found while it has no id",
                "_find_in_statistics",
                "where l.pid = a.pid and l.virtualtransaction = any(k.readers)",
                "where false",
                DOCTOR,
                "test_a_fault_has_the_severity_of_what_comes_of_it",
            ),
            (
                "what holds statistics up is not found once it has finished a job",
                "_find_in_statistics",
                "                and age(a.backend_xid) >= age(k.xid::xid)\n",
                "                and age(a.backend_xid) < 0\n",
                DOCTOR,
                "test_each_fault_is_found_when_it_is_there",
            ),
            (
                "the doctor tells tenants of everybody",
                "doctor",
                "    perform rota._check_no_wall('doctor');\n",
                "",
                DOCTOR,
                "test_the_doctor_is_not_for_who_is_behind_a_wall",
            ),
            (
                "the doctor opens history in an order of its own",
                "doctor",
                "perform from rota.finished_jobs as f cross join rota.attempts as a where false;",
                "null;",
                LOCKS,
                "test_history_is_opened_in_one_order_and_its_partitions_last",
            ),
            (
                "a queue that is worked in SQL seems to be served by nobody",
                "_find_in_queues",
                "l.running > 0 or exists (",
                "exists (",
                DOCTOR,
                "test_a_queue_that_is_worked_in_sql_is_served",
            ),
            (
                "the doctor goes by what its own session has set",
                "_find_in_server",
                "select s.name, s.reset_val from",
                "select s.name, s.setting as reset_val from",
                DOCTOR,
                "test_each_fault_is_found_when_it_is_there",
            ),
        )
    ),
    # -- what a person sees
    *(
        mutant(what, "rota/tail.py", old, new, f"tests/client/test_tail_command.py::{test}")
        for what, old, new, test in (
            (
                "rota tail takes what has not ended by its last look for what will not",
                "min([now, *writers.values()])",
                "now",
                "test_what_ended_long_before_its_commit_is_told",
            ),
            (
                "rota tail has what a writer brings end when it was first seen",
                "self._writers_of(names, before)",
                "self._writers_of(names, now)",
                "test_a_finish_that_waits_for_its_job_is_told_though_it_has_read_the_clock",
            ),
            (
                "rota tail forgets a transaction once it is prepared",
                'oldest if name.endswith("prepared") else before',
                "before",
                "test_what_a_prepared_transaction_ended_is_told_when_it_is_committed",
            ),
            (
                "rota tail goes by its last look though the clock was put back",
                "before = min(self._now, now - timedelta(seconds=looked_at - self._looked_at))",
                "before = self._now",
                "test_a_clock_that_is_put_back_hides_nothing",
            ),
            (
                "rota tail takes two releases of an attempt for one",
                "return (finished_at, *(attempt[part] for part in parts))",
                "return (None, *(attempt[part] for part in parts))",
                "test_each_attempt_is_told_once",
            ),
            (
                "an error that rota tail prints may steer the terminal",
                'if error := printable(attempt["error"] or ""):',
                'if error := attempt["error"]:',
                "test_a_terminal_gets_lines_that_fit_and_nothing_that_steers_it",
            ),
        )
    ),
    # -- metrics
    mutant(
        "a job that runs seems to be due still",
        "db/views.sql",
        "                and j.state = 'SCHEDULED'\n"
        "                and j.run_at <= statement_timestamp()\n            order by",
        "                and j.run_at <= statement_timestamp()\n            order by",
        OLDEST,
    ),
    mutant(
        "the first due job of a queue is that of its highest priority",
        "db/views.sql",
        "select min(d.run_at) as oldest_due_at",
        "select max(d.run_at) as oldest_due_at",
        OLDEST,
    ),
    mutant(
        "a job whose time has not come seems to be due",
        "db/views.sql",
        "                and j.run_at <= statement_timestamp()\n            order by",
        "            order by",
        OLDEST,
    ),
    mutant(
        "the first due job is sought in all of a lane",
        "db/views.sql",
        "            order by j.run_at, j.id\n            limit 1\n        )",
        "        )",
        "tests/functions/test_plans.py::"
        "test_how_long_the_first_job_of_a_queue_has_waited_is_read_by_a_probe_a_lane",
    ),
    mutant(
        "pairs have names by their size, and the counter of the others goes down",
        "app/metrics.py",
        "        min(t.first_counted_at) over (partition by t.queue, t.task),\n",
        "        t.ended desc,\n",
        f"{METRICS}::test_who_was_counted_first_has_a_name_whoever_is_larger",
    ),
    mutant(
        "a tenant is told what the server has",
        "app/metrics.py",
        "_rows(conn, DEAD_ROWS) if sees_all else None",
        "_rows(conn, DEAD_ROWS)",
        "tests/api/test_neighbours.py::"
        "test_a_tenant_scrapes_its_own_queues_and_nothing_of_the_server",
    ),
    mutant(
        "what one principal scraped is given to another",
        "app/metrics.py",
        'scrapes.texts.get((g.get("principal"), content_type), render)',
        "scrapes.texts.get(content_type, render)",
        "tests/api/test_neighbours.py::"
        "test_a_tenant_scrapes_its_own_queues_and_nothing_of_the_server",
    ),
    mutant(
        "each scrape asks the doctor",
        "app/doctor.py",
        "return looked, min(max(least, SHARE * (looked.asked_at - began)), most)",
        "return looked, 0.0",
        f"{METRICS}::test_the_doctor_is_asked_once_in_half_a_minute",
    ),
    mutant(
        "who waits for a scrape reads all of it again",
        "app/shared.py",
        "if entry.kept is None or time.monotonic() >= entry.until:",
        "if True:",
        f"{METRICS}::test_fifty_scrapes_at_one_time_are_one_query_and_leave_room_for_others",
    ),
    mutant(
        "the buckets of a histogram are not summed up",
        "rota/exposition.py",
        "list(zip(_names(bounds), accumulate(numbers), strict=True))",
        "list(zip(_names(bounds), numbers, strict=True))",
        f"{METRICS}::test_counters_are_what_history_has",
    ),
    mutant(
        "a lost lease is counted twice: by the heartbeat, and when its end is told",
        "worker/metrics.py",
        " and not job.lost]",
        "]",
        f"{WORKER_METRICS}::test_a_worker_tells_of_claims_handlers_leases_and_connections",
    ),
    mutant(
        "a slow client keeps others from a worker's metrics",
        "worker/metrics.py",
        "        timer.start()\n",
        "",
        f"{WORKER_METRICS}::test_a_client_that_is_slow_or_gone_holds_it_up_for_moments_only",
    ),
    mutant(
        "an edge of a batch counts once, however many lead to the child",
        SETTLE_EDGES,
        "set open = w.open - c.edges",
        "set open = w.open - 1",
        f"{WORKFLOWS}::test_parents_that_end_in_one_batch_all_count",
    ),
    mutant(
        "a child runs when the first of its parents has ended",
        SETTLE_EDGES,
        "w.job_id = c.id and w.open = c.edges",
        "w.job_id = c.id and w.open >= c.edges",
        f"{WORKFLOWS}::test_a_job_runs_when_all_that_it_depends_on_has_ended",
    ),
    mutant(
        "a child runs before its own time",
        SETTLE_EDGES,
        "run_at = greatest(j.scheduled_for, v_now)",
        "run_at = v_now",
        f"{WORKFLOWS}::test_a_child_with_a_later_time_runs_then",
    ),
    mutant(
        "a failure takes down what is to run all the same",
        SETTLE_EDGES,
        "when d.if_parent_fails = 'cancel'\n                            and d.parent_id",
        "when d.parent_id",
        f"{WORKFLOWS}::test_what_depends_on_a_job_that_fails_is_cancelled_or_runs",
    ),
    mutant(
        "a failure goes down one level",
        SETTLE_EDGES,
        "        v_failed := v_doomed;\n",
        "        v_failed := '{}';\n",
        f"{WORKFLOWS}::test_what_depends_on_a_job_that_fails_is_cancelled_or_runs",
    ),
    mutant(
        "nobody who sleeps is told of what is free to run",
        SETTLE_EDGES,
        "            perform rota._wake(q.queue, q.first_run_at, v_now)\n",
        "            perform\n",
        f"{WORKFLOWS}::test_sleeping_workers_are_told_of_what_is_free_to_run",
    ),
    mutant(
        "a batch that completes and takes room settles nothing",
        COMPLETE,
        "                bool_or(j.linked)\n",
        "                false\n",
        f"{WORKFLOWS}::test_a_parent_that_takes_room_settles_as_any_other",
    ),
    mutant(
        "an attempt that fails settles nothing",
        END,
        "perform rota._settle(v_linked, coalesce(v_failed, '{}'));",
        "null;",
        f"{WORKFLOWS}::test_what_depends_on_a_job_that_fails_is_cancelled_or_runs",
    ),
    mutant(
        "in a batch of which one fails all children are cancelled",
        END,
        "array_agg(f.id) filter (where f.state <> 'COMPLETED')\n        into",
        "array_agg(f.id)\n        into",
        f"{WORKFLOWS}::test_a_batch_of_which_one_fails_tells_each_child_of_its_own_parents",
    ),
    mutant(
        "who waits for history holds a job that waits",
        HOLD_WAITS,
        "    lock table only rota.finished_jobs in row exclusive mode;\n\n",
        "",
        f"{SETTLING_RACES}::test_who_cancels_a_waiting_job_waits_for_history_before_he_holds_it",
    ),
    mutant(
        "a parent that has moved on between two looks is not held",
        HOLD_JOBS,
        "            exit when cardinality(v_held.live) = cardinality(v_live)\n"
        "                and cardinality(v_held.failed) = cardinality(v_failed);",
        "            exit;",
        f"{SETTLING_RACES}::test_who_adds_a_child_to_a_job_that_comes_back_holds_it",
    ),
    mutant(
        "a job that gets a child does not look for it at its end",
        HOLD_PARENTS,
        "    set linked = true\n",
        "    set linked = null\n",
        f"{WORKFLOWS}::test_existing_jobs_of_any_kind_are_parents",
    ),
    mutant(
        "a job depends on a schedule",
        HOLD_PARENTS,
        "where j.id = any(v_held.live) and j.schedule_type <> 'ONE_TIME'",
        "where false",
        f"{WORKFLOWS}::test_a_schedule_is_no_parent",
    ),
    mutant(
        "a job is added below one that failed, and runs",
        ADD_WORKFLOW,
        "        where i.if_parent_fails = 'cancel'\n        order by 1, 2",
        "        where false\n        order by 1, 2",
        f"{WORKFLOWS}::test_a_child_of_a_job_that_ended_otherwise_is_refused_or_runs",
    ),
    mutant(
        "a job waits for one that has ended",
        ADD_WORKFLOW,
        "        where p.id is null\n",
        "",
        f"{WORKFLOWS}::test_a_child_of_jobs_that_have_completed_does_not_wait",
    ),
    mutant(
        "a heartbeat waits for who adds a child",
        "db/functions/lease/heartbeat_job.sql",
        "            for no key update skip locked",
        "            for no key update",
        f"{SETTLING_RACES}::test_a_heartbeat_does_not_wait_for_who_adds_a_child",
    ),
    mutant(
        "next is added by a failure, too",
        FINISH_JOB,
        "v_next is not null and error is null and v_outcome.state in ('COMPLETED', 'SCHEDULED')",
        "v_next is not null",
        f"{WORKFLOWS}::test_nothing_follows_a_finish_that_does_not_succeed",
    ),
    mutant(
        "next is added by an attempt that was cancelled",
        FINISH_JOB,
        " and v_outcome.state in ('COMPLETED', 'SCHEDULED')",
        "",
        f"{WORKFLOWS}::test_nothing_follows_a_finish_that_does_not_succeed",
    ),
    mutant(
        "next of a schedule depends on the schedule",
        FINISH_JOB,
        "case when not v_recurring then finish_job.job_id end",
        "finish_job.job_id",
        f"{WORKFLOWS}::test_each_run_of_a_schedule_adds_what_follows_it",
    ),
    mutant(
        "what goes down with a job does not note it",
        RETIRE_WAITING,
        "and c.cause is not null\n    )",
        "and false\n    )",
        f"{WORKFLOWS}::test_who_went_down_says_with_whom",
    ),
    mutant(
        "a job that was cancelled while it waited goes on waiting",
        RETIRE_WAITING,
        "    delete from rota.job_waits as w\n    where w.job_id = any(job_ids);\n\n",
        "",
        f"{WORKFLOWS}::test_what_depends_on_a_job_that_fails_is_cancelled_or_runs",
    ),
    mutant(
        "what stays below another failed job does not note that one",
        REVIVABLE,
        "w.job_id = s.job_id and w.ended_by is not null",
        "false",
        f"{WORKFLOWS}::test_of_two_failed_parents_the_last_one_that_is_retried_brings_the_child_back",
    ),
    mutant(
        "a job that is back is still noted as gone down",
        REVIVABLE,
        "        set ended_by = null\n",
        "        set ended_by = w.ended_by\n",
        f"{WORKFLOWS}::test_a_retry_brings_back_what_went_down_with_the_job",
    ),
    mutant(
        "a job that comes back does not wait for a parent that lives",
        REVIVABLE,
        "join unnest(v_held.live || v_back) as k(id)",
        "join unnest(v_back) as k(id)",
        f"{WORKFLOWS}::test_a_job_that_was_cancelled_comes_back_waiting_where_a_parent_lives",
    ),
    mutant(
        "an edge that was left to a cancelled job bars its return",
        REVIVABLE,
        "\n        on conflict on constraint job_dependencies_pkey do nothing",
        "",
        f"{WORKFLOWS}::test_a_job_that_was_cancelled_comes_back_waiting_where_a_parent_lives",
    ),
    mutant(
        "two jobs that failed are retried at once, and their common child is left",
        REVIVABLE,
        "            exit when cardinality(rota._family(job_ids)) = cardinality(v_family);\n"
        "            raise exception using errcode = 'RTI02';",
        "            exit;",
        f"{SETTLING_RACES}::test_a_retry_takes_one_that_goes_down_meanwhile",
    ),
    mutant(
        "what depends on a cancelled job runs",
        CANCEL_JOBS,
        "perform rota._settle(v_ended, v_ended);",
        "perform rota._settle(v_ended, '{}');",
        f"{WORKFLOWS}::test_who_cancels_a_job_that_is_scheduled_cancels_what_depends_on_it",
    ),
    mutant(
        "a cancel passes by what is freed meanwhile",
        CANCEL_JOBS,
        "            if found then\n                raise exception using errcode = 'RTI02';\n"
        "            end if;\n",
        "",
        f"{SETTLING_RACES}::test_a_cancel_finds_a_job_that_is_freed_meanwhile",
    ),
    mutant(
        "edges that nobody settled are left",
        "db/functions/upkeep/maintain.sql",
        "        perform rota._heal_edges(1000);",
        "        null;",
        f"{WORKFLOWS}::test_maintain_settles_edges_whose_parent_has_ended",
    ),
    mutant(
        "edges of a failed parent are healed as if it had completed",
        "db/functions/workflows/_heal_edges.sql",
        "perform rota._settle(v_parents, v_failed);",
        "perform rota._settle(v_parents, '{}');",
        f"{WORKFLOWS}::test_maintain_settles_edges_whose_parent_has_ended",
    ),
    mutant(
        "the last write of a step counts",
        "db/functions/steps/record_step.sql",
        "on conflict on constraint job_steps_pkey do nothing",
        "on conflict on constraint job_steps_pkey do update set result = excluded.result",
        f"{STEPS_OF_JOBS}::test_the_first_result_of_a_step_counts",
    ),
    mutant(
        "a retried job has forgotten its steps",
        "db/functions/steps/_step_run.sql",
        "case when schedule_type = 'ONE_TIME' then 0 else run end",
        "run",
        f"{STEPS_OF_JOBS}::test_the_steps_of_a_job_are_there_for_its_next_attempt",
    ),
    mutant(
        "a job that is tried again sleeps anew",
        "db/functions/steps/sleep_job.sql",
        "v_until := (v_recorded ->> 'sleep_until')::timestamptz;",
        "v_until := rota._later(v_now, delay);",
        f"{STEPS_OF_JOBS}::test_a_sleep_is_slept_once_over_retries",
    ),
    mutant(
        "who begins to wait does not hold the event",
        AWAIT,
        "        where e.name = await_event.event\n        for no key update;",
        "        where e.name = await_event.event;",
        f"{SETTLING_RACES}::test_an_event_waits_for_who_begins_to_wait_for_it",
    ),
    mutant(
        "a wait for an event begins anew when its time is up",
        AWAIT,
        "coalesce(v_until, rota._later(v_now, timeout)) <= v_now",
        "rota._later(v_now, timeout) <= v_now",
        f"{EVENTS}::test_a_wait_comes_to_its_end_by_itself",
    ),
    mutant(
        "the last emit of an event counts",
        EMIT,
        "\n        where e.emitted_at is null;",
        ";",
        f"{EVENTS}::test_the_first_emit_of_a_name_counts",
    ),
    mutant(
        "an event moves a job that waits for something else",
        EMIT,
        "j.state = 'SCHEDULED' and j.run_at = w.until",
        "j.state = 'SCHEDULED'",
        f"{EVENTS}::test_an_event_that_comes_while_the_job_is_tried_again_is_taken_then",
    ),
    mutant(
        "what a job slept for stays its last error",
        "db/functions/steps/sleep_job.sql",
        "        perform rota._forget_reason(job_id, v_reason);\n\n",
        "",
        f"{STEPS_OF_JOBS}::test_what_a_job_slept_for_is_no_error_of_one_that_goes_on",
    ),
    mutant(
        "an attempt that fails is looked for in all of a table that was tiny once",
        "db/settings.sql",
        "                ('random_page_cost', '0', array['_end_attempts']),\n"
        "                ('cpu_index_tuple_cost', '1', array['_end_attempts']),\n",
        "",
        f"{PLANS}::test_what_ends_is_found_by_its_place_also_by_plans_of_a_tiny_table",
    ),
    mutant(
        "an API is not ready any more once later functions are deployed",
        "app/health.py",
        "deployed == VERSION or is_outlived(conn, VERSION)",
        "deployed == VERSION",
        "tests/api/test_queues_and_workers.py::test_ready_with_a_later_version",
    ),
    mutant(
        "a worker of before does not start again once later functions are deployed",
        "worker/entrance.py",
        "found == ours or ask(link, lambda conn: is_outlived(conn, ours))",
        "found == ours",
        "tests/worker/test_faults.py"
        "::test_a_worker_starts_where_its_functions_were_deployed_and_later_ones_are",
    ),
    mutant(
        "a deploy that waits for a table holds up whoever comes after it",
        "db/deploy.py",
        'LOCK_TIMEOUT = "100ms"',
        'LOCK_TIMEOUT = "3s"',
        "tests/test_deploy.py"
        "::test_who_works_while_a_deploy_waits_for_a_table_is_held_up_for_moments",
    ),
    mutant(
        "a worker starts on functions that are older than it",
        "db/version.py",
        "    if conn.execute(OLDER).fetchone() == (True,):\n        return False\n"
        '    return conn.execute("select rota.was_deployed(%s)", [version]).fetchone() == (True,)',
        "    return True",
        "tests/worker/test_faults.py::test_a_worker_refuses_functions_of_another_checkout",
    ),
    mutant(
        "a key in strict order waits for the old time of its first job",
        POST_TURNS,
        "        or k.begun\n",
        "",
        f"{TURNS}::test_a_key_in_strict_order_goes_on_when_its_first_job_is_brought_forward",
    ),
    mutant(
        "a step that is recorded is done again",
        "worker/attempt.py",
        "        if name not in self._recorded:\n"
        "            self._check()\n"
        "            value = work(*args, **kwargs)\n"
        "            [(self._recorded[name],)] = self._ask(",
        "        if True:\n"
        "            self._check()\n"
        "            value = work(*args, **kwargs)\n"
        "            [(self._recorded[name],)] = self._ask(",
        "tests/client/test_testing.py::test_a_failed_attempt_does_not_repeat_its_steps",
    ),
    mutant(
        "a job that its handler has handed back is finished all the same",
        "worker/desk.py",
        "        job.away = outcome\n        self.held.discard(job)\n        try:\n",
        "        return\n        try:\n",
        f"{WORKER_STEPS}::test_a_job_that_sleeps_or_waits_holds_no_place_and_repeats_no_step",
    ),
    mutant(
        "a handler that goes on after it was handed back ends its job",
        "worker/attempt.py",
        "        if self.away is not None:\n            raise HandedBack(",
        "        if False:\n            raise HandedBack(",
        "tests/client/test_testing.py"
        "::test_a_handler_that_goes_on_after_it_was_handed_back_does_so_in_vain",
    ),
    mutant(
        "a unique key that is taken among the jobs that follow passes for a finish of before",
        "worker/finisher.py",
        "        if code in PAST and (job.following is None or code == LATE):\n",
        "        if code in PAST:\n",
        f"{WORKER_STEPS}::test_an_attempt_fails_whose_followers_are_refused",
    ),
    mutant(
        "a heartbeat that finds a job asleep has lost it",
        "worker/desk.py",
        "        if job.leaving or job.away is not None:\n            return\n",
        "",
        f"{WORKER_STEPS}::test_a_heartbeat_that_finds_a_job_gone_to_sleep_has_not_lost_it",
    ),
    mutant(
        "a row that a handler has locked keeps the steps of all others waiting",
        "worker/clerk.py",
        "            self._put_apart(question)\n        elif passes(error) and not locked:\n",
        "            self._answer(question)\n        elif passes(error) and not locked:\n",
        f"{WORKER_STEPS}::test_a_row_that_is_locked_keeps_no_other_waiting",
    ),
    # -- a standby, and several databases
    mutant(
        "a database that joins others gives ids that one of them gave while it was alone",
        BECOME_SHARD,
        "v_next := greatest(v_given, beyond) + 1;",
        "v_next := v_given + 1;",
        f"{SHARDS}::test_no_new_database_gives_an_id_that_another_gave_while_it_was_alone",
    ),
    mutant(
        "a database takes another number than it has",
        BECOME_SHARD,
        "if v_is <> _become_shard.shard then",
        "if false then",
        f"{SHARDS}::test_a_number_is_kept_for_good",
    ),
    mutant(
        "a job of before there were shards is said to be elsewhere",
        "db/functions/shards/_elsewhere.sql",
        " and job_id > s.ids_before",
        "",
        f"{SHARDS}::test_an_id_of_before_there_were_shards_is_looked_for_here",
    ),
    mutant(
        "a token that the standby does not know yet is refused",
        "app/standby.py",
        "status_of(error) in (401, 404, 503)",
        "status_of(error) in (404, 503)",
        f"{STANDBY}::test_a_token_that_the_standby_does_not_know_yet_is_good",
    ),
    mutant(
        "a query that replay has ended is an error",
        "app/standby.py",
        "status_of(error) in (401, 404, 503)",
        "status_of(error) in (401, 404)",
        f"{STANDBY}::test_a_query_that_stands_in_the_way_of_replay_is_repeated_on_the_primary",
    ),
    mutant(
        "who waits for a job to end is answered by the standby",
        "app/standby.py",
        '        and "wait" not in request.args\n',
        "",
        f"{STANDBY}::test_what_must_be_of_this_moment_is_asked_of_the_primary",
    ),
    mutant(
        "a connection to a primary is kept for want of a standby",
        "app/standby.py",
        "time.monotonic() + LONGEST_ELSEWHERE",
        "conn.kept_until",
        f"{STANDBY}::test_a_connection_to_a_primary_is_not_kept_for_long",
    ),
    mutant(
        "a write that hangs leaves its session",
        "app/probe.py",
        "        conn.cancel_safe(timeout=LONGEST_CANCEL)\n",
        "        pass\n",
        f"{READY}::test_commits_that_hang_are_seen_in_time_and_leave_no_sessions",
    ),
    mutant(
        "a server that only reads is ready for writes",
        "app/probe.py",
        "if not conn.execute(WRITE).rowcount:",
        "if not conn.execute(WRITE):",
        f"{READY}::test_a_server_that_only_reads_is_ready_for_nothing_but_reads",
    ),
    mutant(
        "the only place is for whoever asks for it",
        "worker/floor.py",
        "lacking = max(share, int(first)) - its_own",
        "lacking = share - its_own",
        f"{WORKER_SHARDS}::test_the_only_place_is_kept_for_who_has_waited_for_it_the_longest",
    ),
    mutant(
        "jobs of one database wait where another lacks places",
        "worker/floor.py",
        "return (room - desk.prefetch, 0) if is_kept else (room, desk.prefetch)",
        "return room, desk.prefetch",
        f"{WORKER_SHARDS}::test_the_only_place_is_kept_for_who_has_waited_for_it_the_longest",
    ),
    mutant(
        "a database that is away at the start ends the worker",
        "worker/entrance.py",
        "            if ask == Link.once and passes(error):\n                raise\n",
        "",
        f"{WORKER_SHARDS}::test_one_that_is_away_at_the_start_joins_later",
    ),
    mutant(
        "a view loses a column while calls are under way that need it",
        "db/deploy.py",
        "set_config('rota.before', ({FUNCTION_OF_BEFORE}), true)",
        "set_config('rota.before', '', true)",
        f"{UPGRADES}::test_no_call_fails_while_what_is_on_record_moves",
    ),
    mutant(
        "requests for a database that does not answer take the threads of others",
        "app/front.py",
        "while self._number_in(lane) >= MOST_OF_LANE[lane]:",
        "while False:",
        "tests/api/test_shards.py::test_one_that_says_nothing_any_more_costs_the_other_nothing",
    ),
]
