"""The life of a schedule: its runs, retries and missed slots, and what operators do to it.

Every test starts the clock at a Monday, 2030-01-07 00:00 UTC, and moves it; nothing waits.
"""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.db.gateway import call

MONDAY = datetime(2030, 1, 7, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = (
    timedelta(seconds=1),
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
)


OTHERS = """
    insert into rota.schedules (
        job_id, every, cron, time_zone, starts_at, ends_at, max_runs, fixed_delay, jitter, misfire,
        misfire_cap, max_lateness, overlap, paused_at, trigger_requested_at
    )
    values
        (-1, '7 days', null, 'UTC', '2029-01-01', '2029-02-01', 1, true, '1 day', 'skip', 1,
            '1 second', 'catch_up', '2029-01-02', '2029-01-02'),
        (-2, null, '0 0 1 1 *', 'Asia/Tokyo', '2028-01-01', '2028-01-02', 1, false, '1 day', 'all',
            1, '1 second', 'coalesce', null, null)
"""


@pytest.fixture
def at(conn, clock):
    """Put the clock to some time after that Monday's midnight; the clock still runs on.

    The definitions of others are there, first in their table, and must stay what they are.
    """
    conn.execute(OTHERS)
    query = "select * from rota.schedules where job_id < 0 order by job_id"
    before = conn.execute(query).fetchall()

    def move(after):
        clock.set(MONDAY + after)

    move(timedelta(0))
    yield move
    assert conn.execute(query).fetchall() == before


def hourly(conn, **options):
    """A schedule at every full hour, the first at 01:00."""
    arguments = {
        "task": "tick",
        "every": HOUR,
        "starts_at": MONDAY + HOUR,
        "name": "tick",
        "max_retries": 0,
        **options,
    }
    return call(conn, "schedule_job", **arguments)[0]["job_id"]


def claim(conn):
    """Claim the one job that is due, as (hours since Monday, what finish_job wants)."""
    rows = call(conn, "claim_next_job", max_jobs=10)
    if not rows:
        return None
    (row,) = rows
    return hours(row["scheduled_for"]), {"job_id": row["id"], "token": row["token"]}


def hours(instant):
    return (instant - MONDAY) / HOUR


def run(conn, **ending):
    """Claim and finish what is due; return the slot, in hours since Monday."""
    slot, held = claim(conn)
    call(conn, "finish_job", **held, **ending)
    return slot


def status(conn):
    cursor = conn.cursor(row_factory=dict_row)
    return cursor.execute("select * from rota.schedule_status").fetchone()


def skipped(conn):
    """The SKIPPED rows, as (number of slots, why)."""
    return [
        (result["slots"], reason)
        for result, reason in conn.execute(
            "select result, error from rota.job_executions where outcome = 'SKIPPED'"
            " order by finished_at"
        )
    ]


def test_slots_stay_on_the_grid_whatever_the_runs_take(conn, at):
    hourly(conn)
    slots = []
    for hour in range(1, 6):
        at(hour * HOUR + 7 * MINUTE)
        slots.append(run(conn, error="boom"))

    assert slots == [1, 2, 3, 4, 5]
    assert skipped(conn) == []
    assert status(conn)["run"] == 6


def test_a_schedule_without_a_start_runs_at_once(conn, at):
    call(conn, "schedule_job", task="tick", every=HOUR)

    assert run(conn) == pytest.approx(0, abs=0.01)
    assert claim(conn) is None


@pytest.mark.parametrize(
    ("options", "runs", "rows"),
    [
        (
            {"misfire": "skip"},
            [169],
            [(167, "167 slots were missed; misfire policy skip")],
        ),
        ({"misfire": "once"}, [168, 169], [(167, "167 slots were missed; misfire policy once")]),
        (
            {"misfire": "all", "misfire_cap": 5},
            [164, 165, 166, 167, 168, 169],
            [(163, "163 slots were missed; misfire policy all, cap 5")],
        ),
        (
            {"misfire": "all", "misfire_cap": 1000},
            [*range(1, 170)],
            [],
        ),
        (
            {"misfire": "all", "misfire_cap": 1000, "max_lateness": 3 * HOUR},
            [166, 167, 168, 169],
            [(165, "165 slots were missed; misfire policy all")],
        ),
        (
            {"misfire": "once", "max_lateness": MINUTE},
            [169],
            [(168, "168 slots were missed; misfire policy once")],
        ),
        ({"misfire": "skip", "max_lateness": HOUR}, [168, 169], [(167, "167 slots were missed")]),
    ],
    ids=str,
)
def test_a_week_without_workers_gives_what_the_misfire_mode_promises(conn, at, options, runs, rows):
    hourly(conn, **options)
    at(7 * DAY + 30 * MINUTE)
    ran = []
    while claimed := claim(conn):
        ran.append(claimed[0])
        call(conn, "finish_job", **claimed[1])
    at(7 * DAY + HOUR)
    ran.append(run(conn))

    assert ran == runs
    if options == {"misfire": "skip"}:
        rows = [(168, "168 slots were missed; misfire policy skip")]
    found = skipped(conn)
    assert [count for count, _ in found] == [count for count, _ in rows]
    for (_, reason), (_, expected) in zip(found, rows, strict=True):
        assert reason.startswith(expected)


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
def test_a_year_of_minutes_missed_does_not_flood(conn, at, misfire):
    call(
        conn,
        "schedule_job",
        task="tick",
        cron="* * * * *",
        name="tick",
        misfire=misfire,
        misfire_cap=10,
        max_retries=0,
    )
    at(365 * DAY + 30 * SECOND)
    ran = []
    while claimed := claim(conn):
        ran.append(round(claimed[0] * 60))
        call(conn, "finish_job", **claimed[1])

    last = 365 * 24 * 60
    assert (
        ran
        == {
            "skip": [last],
            "once": [last],
            "all": [*range(last - 9, last + 1)],
        }[misfire]
    )
    ((slots, _),) = skipped(conn)
    assert slots == last - len(ran)


def test_slots_that_come_during_a_run_are_coalesced_into_it(conn, at):
    hourly(conn)
    at(HOUR)
    _, held = claim(conn)
    at(4 * HOUR + MINUTE)

    call(conn, "finish_job", **held)

    assert hours(status(conn)["scheduled_for"]) == 5
    assert skipped(conn) == [(3, "3 slots came while the run was under way")]


@pytest.mark.parametrize(("misfire", "runs"), [("once", [4]), ("all", [2, 3, 4]), ("skip", [])])
def test_slots_that_come_during_a_run_can_be_caught_up(conn, at, misfire, runs):
    hourly(conn, overlap="catch_up", misfire=misfire)
    at(HOUR)
    _, held = claim(conn)
    at(4 * HOUR + 2 * MINUTE)
    call(conn, "finish_job", **held)

    ran = []
    while claimed := claim(conn):
        ran.append(claimed[0])
        call(conn, "finish_job", **claimed[1])

    assert ran == runs
    assert hours(status(conn)["scheduled_for"]) == 5


def test_a_retry_stays_inside_its_run_and_leaves_the_next_slot_alone(conn, at):
    hourly(conn, max_retries=3)
    at(HOUR)
    _, held = claim(conn)
    (told,) = call(conn, "finish_job", **held, error="boom", retry_in=MINUTE)
    assert hours(told["run_at"]) == pytest.approx(1 + 1 / 60, abs=0.01)
    at(HOUR + 2 * MINUTE)

    assert run(conn) == 1

    at(2 * HOUR)
    assert run(conn) == 2
    runs = conn.execute(
        "select run, attempt, outcome from rota.job_executions order by finished_at"
    ).fetchall()
    assert runs == [(1, 1, "FAILED"), (1, 2, "SUCCEEDED"), (2, 1, "SUCCEEDED")]


def test_a_retry_that_would_come_after_the_next_slot_is_given_up_on_record(conn, at):
    hourly(conn, max_retries=3)
    at(HOUR)
    _, held = claim(conn)

    (told,) = call(conn, "finish_job", **held, error="boom", retry_in=2 * HOUR)

    assert hours(told["run_at"]) == 2
    assert skipped(conn) == [(0, "its retries were given up because the next slot came")]


def test_a_retry_overtaken_by_a_slot_while_nobody_worked_is_given_up_on_record(conn, at):
    hourly(conn, max_retries=3)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "finish_job", **held, error="boom", retry_in=MINUTE)
    at(2 * HOUR + MINUTE)

    slot, held = claim(conn)

    assert slot == 2
    assert status(conn)["run"] == 2
    assert len(skipped(conn)) == 1
    call(conn, "finish_job", **held)


def test_a_run_that_is_lost_is_taken_back_and_the_schedule_goes_on(conn, at):
    hourly(conn)
    at(HOUR)
    claim(conn)
    at(HOUR + 5 * MINUTE)

    assert call(conn, "recover_jobs") == [{"recover_jobs": 1}]

    assert hours(status(conn)["run_at"]) == 2


def test_a_fixed_delay_counts_from_the_end_of_the_run(conn, at):
    hourly(conn, fixed_delay=True)
    at(HOUR)
    _, held = claim(conn)
    at(3 * HOUR + 20 * MINUTE)

    call(conn, "finish_job", **held)

    assert hours(status(conn)["run_at"]) == pytest.approx(4 + 1 / 3, abs=0.01)
    at(30 * HOUR)
    assert run(conn) == pytest.approx(4 + 1 / 3, abs=0.01)
    assert skipped(conn) == []


def test_a_schedule_ends_before_its_end(conn, at):
    job_id = hourly(conn, ends_at=MONDAY + 3 * HOUR)
    for hour in (1, 2):
        at(hour * HOUR)
        last = call(conn, "finish_job", **claim(conn)[1], error="boom")

    assert last == [{"job_id": job_id, "state": "COMPLETED", "run_at": None}]


def test_a_schedule_whose_end_passed_while_nobody_worked_ends(conn, at):
    job_id = hourly(conn, ends_at=MONDAY + 3 * HOUR, misfire="skip")
    at(5 * HOUR)

    assert claim(conn) is None

    state = conn.execute("select state from rota.jobs where id = %s", [job_id]).fetchone()[0]
    assert state == "COMPLETED"
    assert [count for count, _ in skipped(conn)] == [2]


def test_a_schedule_ends_after_its_last_run(conn, at):
    hourly(conn, max_runs=2)
    at(HOUR)
    run(conn)
    at(2 * HOUR)

    (told,) = call(conn, "finish_job", **claim(conn)[1])

    assert told["state"] == "COMPLETED"


def test_a_cancelled_schedule_that_is_over_cannot_come_back(conn, at):
    job_id = hourly(conn, ends_at=MONDAY + 3 * HOUR)
    call(conn, "delete_schedule", name="tick")
    at(4 * HOUR)

    with pytest.raises(psycopg.Error, match="over") as caught:
        call(conn, "retry_job", job_id=job_id)

    assert caught.value.sqlstate == "RTC01"


def test_jitter_spreads_the_starts_and_leaves_the_slots_alone(conn, at):
    for number in range(40):
        hourly(conn, name=str(number), jitter=10 * MINUTE)

    rows = conn.execute("select run_at, scheduled_for from rota.schedule_status").fetchall()

    delays = [run_at - slot for run_at, slot in rows]
    assert {hours(slot) for _, slot in rows} == {1}
    assert all(timedelta(0) <= delay <= 10 * MINUTE for delay in delays)
    assert max(delays) > 5 * MINUTE > min(delays)


def test_an_update_with_the_same_timing_moves_nothing(conn, at):
    job_id = hourly(conn)
    at(HOUR + MINUTE)

    assert hourly(conn, payload=Jsonb({"new": 1})) == job_id

    found = status(conn)
    assert (hours(found["scheduled_for"]), found["payload"]) == (1, {"new": 1})
    assert run(conn) == 1


def test_an_update_of_the_timing_chooses_the_slot_ahead_anew(conn, at):
    hourly(conn)
    at(10 * MINUTE)

    hourly(conn, every=2 * HOUR, starts_at=MONDAY + HOUR / 2)

    assert hours(status(conn)["scheduled_for"]) == 0.5
    assert conn.execute("select count(*) from rota.jobs").fetchone()[0] == 1


def test_an_update_neither_loses_nor_doubles_a_slot_that_is_due(conn, at):
    hourly(conn)
    at(HOUR + MINUTE)
    hourly(conn, every=30 * MINUTE, starts_at=None)

    assert run(conn) == 1
    assert hours(status(conn)["scheduled_for"]) == 1.5
    hourly(conn, every=HOUR, starts_at=None)
    assert hours(status(conn)["scheduled_for"]) == 2


def test_an_update_while_it_runs_takes_effect_with_the_next_slot(conn, at):
    hourly(conn)
    at(HOUR)
    slot, held = claim(conn)

    job_id = hourly(conn, every=None, cron="15 * * * *", task="other")
    (told,) = call(conn, "finish_job", **held)

    assert (slot, told["job_id"], hours(told["run_at"])) == (1, job_id, 1.25)
    assert status(conn)["schedule_type"] == "CRON"


def test_a_pause_holds_the_runs_and_a_resume_goes_on_with_the_next_slot(conn, at):
    hourly(conn)
    at(HOUR + MINUTE)
    call(conn, "pause_schedule", name="tick")
    at(4 * HOUR + MINUTE)
    assert claim(conn) is None
    assert status(conn)["run_at"] is None

    (told,) = call(conn, "resume_schedule", name="tick")

    assert hours(told["run_at"]) == 5
    assert skipped(conn) == [(4, "the schedule was paused")]
    at(5 * HOUR)
    assert run(conn) == 5


def test_a_pause_while_it_runs_lets_the_run_end_and_holds_the_next(conn, at):
    hourly(conn)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "pause_schedule", name="tick")

    (told,) = call(conn, "finish_job", **held)

    assert (told["state"], told["run_at"]) == ("SCHEDULED", None)
    at(3 * HOUR)
    assert claim(conn) is None


def test_a_retry_of_a_run_that_was_paused_meanwhile_waits_for_no_time_that_one_can_name(conn, at):
    hourly(conn, max_retries=1)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "pause_schedule", name="tick")

    (told,) = call(conn, "finish_job", **held, error="boom", retry_in=MINUTE)

    assert (told["state"], told["run_at"]) == ("SCHEDULED", None)
    query = "select next_run_at, job_state from rota.job_executions where outcome = 'FAILED'"
    assert conn.execute(query).fetchall() == [(None, "SCHEDULED")]
    query = "select run, attempt, run_at = 'infinity' from rota.live_jobs"
    assert conn.execute(query).fetchall() == [(1, 1, True)]
    at(3 * HOUR)
    assert claim(conn) is None


def test_a_schedule_that_is_saved_after_the_clock_was_put_back_may_run_slots_it_had_skipped(
    conn, at
):
    hourly(conn, misfire="skip")
    at(HOUR)
    assert run(conn) == 1
    at(2 * HOUR + 10 * MINUTE)
    assert claim(conn) is None
    at(4 * HOUR + 10 * MINUTE)
    assert claim(conn) is None
    assert [slot for slot, _ in skipped(conn)] != []
    at(90 * MINUTE)

    hourly(conn, misfire="skip", every=30 * MINUTE)

    assert hours(status(conn)["scheduled_for"]) == 2


def test_pausing_and_resuming_ahead_of_the_slot_changes_nothing(conn, at):
    hourly(conn)
    call(conn, "pause_schedule", name="tick")
    call(conn, "pause_schedule", name="tick")
    call(conn, "resume_schedule", name="tick")
    call(conn, "resume_schedule", name="tick")

    assert skipped(conn) == []
    at(HOUR)
    assert run(conn) == 1


def test_a_retry_that_waited_through_a_pause_runs_after_it(conn, at):
    hourly(conn, max_retries=2)
    at(HOUR)
    call(conn, "finish_job", **claim(conn)[1], error="boom", retry_in=MINUTE)
    call(conn, "pause_schedule", name="tick")
    at(HOUR + 10 * MINUTE)
    assert claim(conn) is None

    call(conn, "resume_schedule", name="tick")

    assert run(conn) == 1
    assert status(conn)["run"] == 2


def test_a_trigger_runs_now_and_the_next_slot_stays(conn, at):
    hourly(conn)
    at(30 * MINUTE)

    call(conn, "trigger_schedule", name="tick")

    assert run(conn) == pytest.approx(0.5, abs=0.01)
    assert hours(status(conn)["scheduled_for"]) == 1
    assert skipped(conn) == []


def test_a_trigger_during_a_run_starts_another_when_it_ends(conn, at):
    hourly(conn)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "trigger_schedule", name="tick")
    assert claim(conn) is None
    at(HOUR + MINUTE)

    call(conn, "finish_job", **held)

    assert run(conn) == pytest.approx(1 + 1 / 60, abs=0.01)
    assert hours(status(conn)["scheduled_for"]) == 2


def test_a_trigger_runs_a_paused_schedule_once(conn, at):
    hourly(conn)
    call(conn, "pause_schedule", name="tick")

    call(conn, "trigger_schedule", name="tick")

    run(conn)
    at(3 * HOUR)
    assert claim(conn) is None


def test_a_backfill_adds_a_job_for_each_slot_once(conn, at):
    hourly(conn)
    arguments = {"name": "tick", "starts_at": MONDAY + 2 * HOUR, "ends_at": MONDAY + 5 * HOUR}

    made = call(conn, "backfill_schedule", **arguments)
    again = call(conn, "backfill_schedule", **arguments)

    assert [row["created"] for row in made] == [True] * 3
    assert [row["created"] for row in again] == [False] * 3
    rows = call(conn, "claim_next_job", max_jobs=10)
    assert sorted(hours(row["scheduled_for"]) for row in rows) == [2, 3, 4]


@pytest.mark.parametrize(
    ("starts_at", "ends_at"),
    [
        (MONDAY, MONDAY),
        (MONDAY + DAY, MONDAY),
        (MONDAY, MONDAY + 1001 * HOUR + HOUR),
        (MONDAY, "infinity"),
        (None, MONDAY),
        ("4713-01-01 BC", "294276-12-31"),
    ],
)
def test_a_backfill_of_a_bad_range_is_refused(conn, at, starts_at, ends_at):
    hourly(conn)

    with pytest.raises(psycopg.Error) as caught:
        call(conn, "backfill_schedule", name="tick", starts_at=starts_at, ends_at=ends_at)

    assert caught.value.sqlstate == "RTV01"
    assert conn.execute("select count(*) from rota.jobs").fetchone()[0] == 1


def test_a_deleted_schedule_ends_now_or_with_its_run(conn, at):
    job_id = hourly(conn)
    (told,) = call(conn, "delete_schedule", name="tick")
    assert told["state"] == "CANCELLED"

    hourly(conn)
    at(HOUR)
    _, held = claim(conn)
    (told,) = call(conn, "delete_schedule", name="tick")
    assert told["state"] == "RUNNING"
    assert call(conn, "finish_job", **held)[0]["state"] == "CANCELLED"
    assert held["job_id"] != job_id


@pytest.mark.parametrize(
    "function", ["pause_schedule", "resume_schedule", "trigger_schedule", "delete_schedule"]
)
def test_a_schedule_that_is_not_there_is_not_found(conn, function):
    with pytest.raises(psycopg.Error, match="nobody") as caught:
        call(conn, function, name="nobody")

    assert caught.value.sqlstate == "RTN02"


@pytest.mark.parametrize("step", [-2 * HOUR, -3 * DAY])
def test_a_clock_put_back_runs_no_slot_twice(conn, at, clock, step):
    hourly(conn)
    at(5 * HOUR)
    assert run(conn) == 5
    clock.advance(step)

    assert claim(conn) is None
    assert hours(status(conn)["scheduled_for"]) == 6


def forget_the_zone(conn, name="tick"):
    """Have the server know the zone of a schedule no longer."""
    conn.execute(
        "update rota.schedules set time_zone = 'Gone/Away'"
        " where job_id = (select id from rota.live_jobs where name = %s)",
        [name],
    )


def know_the_zone(conn):
    conn.execute("update rota.schedules set time_zone = 'UTC' where job_id > 0")


def broken_rules(conn):
    return [
        invariant for (invariant,) in conn.execute("select invariant from rota.check_invariants()")
    ]


def test_a_zone_that_the_server_no_longer_knows_stops_no_other_job(conn, at):
    hourly(conn, every=None, cron="0 * * * *", name="bad", time_zone="Europe/Berlin")
    hourly(conn, name="good")
    at(HOUR)
    call(conn, "claim_next_job", max_jobs=2)
    forget_the_zone(conn, "bad")
    at(HOUR + 5 * MINUTE)

    assert call(conn, "recover_jobs") == [{"recover_jobs": 2}]

    assert broken_rules(conn) == ["K2: the next slot of a live schedule can be computed"]
    hourly(conn, every=None, cron="0 * * * *", name="bad")
    call(conn, "pause_schedule", name="bad")
    call(conn, "resume_schedule", name="bad")
    assert hours(conn.execute("select max(run_at) from rota.jobs").fetchone()[0]) == 2


def test_a_run_ends_though_its_next_slot_cannot_be_computed_and_says_why(conn, at):
    job_id = hourly(conn, every=None, cron="0 * * * *")
    at(HOUR)
    _, held = claim(conn)
    forget_the_zone(conn)

    (told,) = call(conn, "finish_job", **held)

    assert (told["job_id"], told["state"]) == (job_id, "SCHEDULED")
    assert hours(told["run_at"]) == pytest.approx(1 + 1 / 60, abs=0.01)
    found = status(conn)
    assert "cannot be computed" in found["last_error"]
    assert "Gone/Away" in found["last_error"]
    assert call(conn, "finish_job", **held)[0]["state"] == "SCHEDULED"
    know_the_zone(conn)
    at(HOUR + 2 * MINUTE)
    claim(conn)


def test_a_slot_that_cannot_be_computed_is_tried_again_later_and_later_and_is_no_attempt(conn, at):
    hourly(conn, every=None, cron="0 * * * *")
    at(HOUR)
    _, held = claim(conn)
    forget_the_zone(conn)
    call(conn, "finish_job", **held)

    tries = [hours(status(conn)["run_at"])]
    while tries[-1] < 8:
        at(tries[-1] * HOUR)
        assert claim(conn) is None
        tries.append(hours(status(conn)["run_at"]))

    minutes = [
        round((after - before) * 60) for before, after in zip([1, *tries], tries, strict=False)
    ]
    assert minutes[:7] == [1, 1, 2, 4, 8, 16, 32]
    assert set(minutes[7:]) == {60}
    assert (status(conn)["run"], status(conn)["state"]) == (2, "SCHEDULED")
    outcomes = conn.execute("select outcome from rota.job_executions").fetchall()
    assert outcomes == [("SUCCEEDED",)]
    know_the_zone(conn)
    at(tries[-1] * HOUR)
    claim(conn)


@pytest.mark.parametrize(
    ("options", "runs", "given_up"),
    [
        ({"misfire": "all"}, [2, 3, 4], 0),
        ({"misfire": "once"}, [4], 2),
        ({"misfire": "skip"}, [], 3),
        ({"misfire": "all", "ends_at": MONDAY + 3 * HOUR}, [2], 0),
        ({"misfire": "all", "max_runs": 2}, [2], 0),
    ],
    ids=str,
)
def test_no_slot_is_lost_or_doubled_once_they_can_be_computed_again(
    conn, at, options, runs, given_up
):
    job_id = hourly(conn, every=None, cron="0 * * * *", **options)
    at(HOUR)
    _, held = claim(conn)
    forget_the_zone(conn)
    call(conn, "finish_job", **held)
    at(HOUR + 2 * MINUTE)
    assert claim(conn) is None
    know_the_zone(conn)
    at(4 * HOUR + 30 * MINUTE)

    ran = []
    while claimed := claim(conn):
        ran.append(claimed[0])
        call(conn, "finish_job", **claimed[1])

    assert ran == runs
    assert sum(count for count, _ in skipped(conn)) == given_up
    if options["misfire"] != "all" or len(options) == 1:
        assert hours(status(conn)["run_at"]) == 5
    else:
        state = conn.execute("select state from rota.jobs where id = %s", [job_id]).fetchone()
        assert state == ("COMPLETED",)
    assert broken_rules(conn) == []


def test_what_is_due_runs_though_the_slots_behind_it_cannot_be_computed(conn, at):
    hourly(conn, every=None, cron="0 * * * *", max_retries=1)
    forget_the_zone(conn)
    at(HOUR)

    slot, held = claim(conn)

    assert slot == 1
    call(conn, "finish_job", **held, error="boom", retry_in=MINUTE)
    at(HOUR + 2 * MINUTE)
    assert run(conn) == 1, "its retry waits for nothing"
    assert status(conn)["run"] == 2
    know_the_zone(conn)
    at(2 * HOUR)
    assert run(conn) == 2


def test_what_is_due_too_late_is_given_up_though_the_next_slot_cannot_be_computed(conn, at):
    hourly(conn, every=None, cron="0 * * * *", misfire="skip")
    forget_the_zone(conn)
    at(HOUR + 10 * MINUTE)

    assert claim(conn) is None

    assert [count for count, _ in skipped(conn)] == [1]
    assert "Gone/Away" in status(conn)["last_error"]
    know_the_zone(conn)
    at(2 * HOUR)
    assert run(conn) == 2
    assert [count for count, _ in skipped(conn)] == [1]


@pytest.mark.parametrize("ending", ["finish", "recover"])
def test_a_schedule_that_cannot_be_computed_stays_paused_and_goes_on_when_resumed(conn, at, ending):
    hourly(conn, every=None, cron="0 * * * *")
    at(HOUR)
    _, held = claim(conn)
    call(conn, "pause_schedule", name="tick")
    forget_the_zone(conn)
    if ending == "finish":
        call(conn, "finish_job", **held)
    else:
        at(HOUR + 5 * MINUTE)
        call(conn, "recover_jobs")
    at(3 * HOUR + 30 * MINUTE)
    assert claim(conn) is None

    with pytest.raises(psycopg.Error, match="Gone/Away"):
        call(conn, "resume_schedule", name="tick")

    assert status(conn)["paused_at"] is not None
    know_the_zone(conn)
    (told,) = call(conn, "resume_schedule", name="tick")
    assert hours(told["run_at"]) == 4
    assert skipped(conn) == [(2, "the schedule was paused")]
    at(4 * HOUR)
    assert run(conn) == 4


def test_a_trigger_of_a_schedule_that_cannot_be_computed_says_so_and_works_afterwards(conn, at):
    hourly(conn, every=None, cron="0 * * * *")
    at(HOUR)
    _, held = claim(conn)
    forget_the_zone(conn)
    call(conn, "finish_job", **held)
    at(HOUR + 30 * SECOND)

    with pytest.raises(psycopg.Error, match="Gone/Away"):
        call(conn, "trigger_schedule", name="tick")

    know_the_zone(conn)
    call(conn, "trigger_schedule", name="tick")
    assert 1 < run(conn) < 1.1
    assert hours(status(conn)["run_at"]) == 2


def test_saving_a_schedule_heals_it_at_once_and_keeps_what_came_due_meanwhile(conn, at):
    hourly(conn, every=None, cron="0 * * * *", misfire="all")
    at(HOUR)
    _, held = claim(conn)
    forget_the_zone(conn)
    call(conn, "finish_job", **held)
    at(3 * HOUR + 30 * MINUTE)

    hourly(conn, every=None, cron="30 * * * *", misfire="all")

    assert [run(conn), run(conn), run(conn)] == [1.5, 2.5, 3.5]
    assert hours(status(conn)["run_at"]) == 4.5


def test_a_cancelled_schedule_that_could_not_be_computed_can_come_back(conn, at):
    job_id = hourly(conn, every=None, cron="0 * * * *")
    at(HOUR)
    _, held = claim(conn)
    forget_the_zone(conn)
    call(conn, "finish_job", **held)
    call(conn, "delete_schedule", name="tick")
    know_the_zone(conn)

    call(conn, "retry_job", job_id=job_id)

    assert hours(status(conn)["run_at"]) == 2


def raise_from_next_run(conn, code):
    """Have every computation of a slot raise this error."""
    conn.execute(
        sql.SQL(
            """
            create or replace function rota.next_run(
                cron text, time_zone text, after timestamptz
            )
                returns timestamptz
                language plpgsql
                stable
            as $$
            begin
                raise exception 'as told' using errcode = {};
            end;
            $$
            """
        ).format(sql.Literal(code))
    )


@pytest.mark.parametrize("code", ["22023", "XX000", "0A000", "42883", "P0001", "54001"])
def test_any_error_of_one_schedule_is_its_own(conn, at, code):
    hourly(conn, every=None, cron="0 * * * *")
    at(HOUR)
    _, held = claim(conn)
    raise_from_next_run(conn, code)

    (told,) = call(conn, "finish_job", **held)

    assert told["state"] == "SCHEDULED"
    assert "as told" in status(conn)["last_error"]
    call(conn, "delete_schedule", name="tick")


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03", "57014", "57P01", "53200"])
def test_an_error_of_the_moment_fails_the_call_and_is_not_laid_to_the_schedule(conn, at, code):
    hourly(conn, every=None, cron="0 * * * *")
    at(HOUR)
    _, held = claim(conn)
    raise_from_next_run(conn, code)

    with pytest.raises(psycopg.Error, match="as told") as caught:
        call(conn, "finish_job", **held)

    assert caught.value.sqlstate == code
    assert (status(conn)["state"], status(conn)["last_error"]) == ("RUNNING", None)


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ({"every": None}, "RTV01", "every or cron"),
        ({"cron": "* * * * *"}, "RTV01", "every or cron"),
        ({"every": timedelta(0)}, "RTV01", "every"),
        ({"every": -HOUR}, "RTV01", "every"),
        ({"every": "1 month -10 days"}, "RTV01", "every"),
        ({"every": "101 years"}, "RTV01", "every"),
        ({"starts_at": "infinity"}, "RTV01", "starts_at"),
        ({"ends_at": MONDAY}, "RTV01", "ends_at"),
        ({"ends_at": "infinity"}, "RTV01", "ends_at"),
        ({"max_runs": 0}, "RTV01", "max_runs"),
        ({"jitter": -SECOND}, "RTV01", "jitter"),
        ({"jitter": HOUR}, "RTV01", "jitter"),
        ({"jitter": None}, "RTV01", "jitter"),
        ({"misfire": "never"}, "RTV01", "misfire"),
        ({"misfire": None}, "RTV01", "misfire"),
        ({"misfire_cap": 0}, "RTV01", "misfire_cap"),
        ({"misfire_cap": 1001}, "RTV01", "misfire_cap"),
        ({"max_lateness": timedelta(0)}, "RTV01", "max_lateness"),
        ({"overlap": "allow"}, "RTV01", "overlap"),
        ({"fixed_delay": None}, "RTV01", "fixed_delay"),
        ({"every": None, "cron": "* * * * *", "fixed_delay": True}, "RTV01", "fixed_delay"),
        ({"every": None, "cron": "61 * * * *"}, "RTV02", "minute"),
        ({"every": None, "cron": "0 0 30 2 *"}, "RTV02", "never"),
        ({"time_zone": "Mars/Phobos"}, "RTV02", "time_zone"),
        ({"time_zone": None}, "RTV01", "time_zone"),
        ({"name": ""}, "RTV01", "name"),
        ({"priority": 101}, "RTV01", "priority"),
        ({"task": ""}, "RTV01", "task"),
    ],
    ids=str,
)
def test_a_schedule_that_could_not_be_kept_is_refused_by_name(conn, at, options, code, named):
    with pytest.raises(psycopg.Error, match=named) as caught:
        hourly(conn, **options)

    assert caught.value.sqlstate == code
    assert conn.execute("select count(*) from rota.jobs").fetchone()[0] == 0
    assert conn.execute("select from rota.schedules where job_id > 0").fetchall() == []


def test_a_trigger_after_the_clock_was_put_back_brings_no_slot_again(conn, at):
    hourly(conn)
    at(5 * HOUR)
    assert run(conn) == 5
    at(2 * HOUR)

    call(conn, "trigger_schedule", name="tick")

    assert 5 < run(conn) < 6
    assert hours(status(conn)["scheduled_for"]) == 6


def test_an_update_after_the_clock_was_put_back_brings_no_slot_again(conn, at):
    hourly(conn)
    at(5 * HOUR)
    assert run(conn) == 5
    at(2 * HOUR)

    hourly(conn, jitter=MINUTE)

    assert hours(status(conn)["scheduled_for"]) == 6
    hourly(conn, every=30 * MINUTE)
    assert hours(status(conn)["scheduled_for"]) == 5.5


def test_a_trigger_runs_a_slot_that_waits_for_its_jitter(conn, at):
    hourly(conn, jitter=30 * MINUTE)
    conn.execute("update rota.live_jobs set run_at = %s", [MONDAY + 90 * MINUTE])
    at(HOUR + MINUTE)

    call(conn, "trigger_schedule", name="tick")

    assert run(conn) == 1
    assert hours(status(conn)["scheduled_for"]) == 2


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
def test_a_late_trigger_of_a_paused_schedule_runs_and_leaves_it_paused(conn, at, misfire):
    hourly(conn, misfire=misfire)
    call(conn, "pause_schedule", name="tick")
    at(3 * HOUR + 30 * MINUTE)
    call(conn, "trigger_schedule", name="tick")
    at(5 * HOUR + 30 * MINUTE)

    assert run(conn) == pytest.approx(3.5, abs=0.01)

    assert status(conn)["run_at"] is None
    at(8 * HOUR)
    assert claim(conn) is None
    assert skipped(conn)[0] == (3, "the schedule was paused")
    call(conn, "resume_schedule", name="tick")
    assert sum(count for count, _ in skipped(conn)) == 8


def test_a_trigger_outlives_a_resume(conn, at):
    hourly(conn)
    call(conn, "pause_schedule", name="tick")
    at(30 * MINUTE)
    call(conn, "trigger_schedule", name="tick")

    call(conn, "resume_schedule", name="tick")

    assert run(conn) == pytest.approx(0.5, abs=0.01)
    assert hours(status(conn)["run_at"]) == 1


def test_a_trigger_during_a_paused_run_starts_another(conn, at):
    hourly(conn)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "pause_schedule", name="tick")
    call(conn, "trigger_schedule", name="tick")
    at(HOUR + MINUTE)

    call(conn, "finish_job", **held)

    assert run(conn) == pytest.approx(1 + 1 / 60, abs=0.01)
    at(3 * HOUR)
    assert claim(conn) is None


def test_a_trigger_takes_no_missed_slot_from_a_schedule_that_runs_them_all(conn, at):
    hourly(conn, misfire="all")
    at(4 * HOUR)
    slot, held = claim(conn)
    call(conn, "trigger_schedule", name="tick")
    call(conn, "finish_job", **held)

    assert [slot, run(conn), run(conn), run(conn)] == [1, 2, 3, 4]
    assert skipped(conn) == []


@pytest.mark.parametrize("pause", [False, True])
def test_the_last_run_keeps_its_retry_and_is_followed_by_none(conn, at, pause):
    job_id = hourly(conn, max_runs=1, max_retries=1)
    at(HOUR)
    call(conn, "finish_job", **claim(conn)[1], error="boom", retry_in=MINUTE)
    if pause:
        call(conn, "pause_schedule", name="tick")
    at(4 * HOUR)
    if pause:
        assert claim(conn) is None
        call(conn, "resume_schedule", name="tick")

    slot, held = claim(conn)
    (told,) = call(conn, "finish_job", **held)

    assert (slot, told["state"]) == (1, "COMPLETED")
    runs = conn.execute("select run from rota.jobs where id = %s", [job_id]).fetchone()
    assert runs == (1,)


def test_a_retry_of_the_last_run_waits_while_the_schedule_is_paused(conn, at):
    hourly(conn, max_runs=1, max_retries=1)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "pause_schedule", name="tick")
    call(conn, "finish_job", **held, error="boom", retry_in=MINUTE)
    at(2 * HOUR)

    assert claim(conn) is None
    call(conn, "resume_schedule", name="tick")
    assert run(conn) == 1


def test_a_retry_of_the_last_run_that_comes_too_late_ends_the_schedule(conn, at):
    job_id = hourly(conn, max_runs=1, max_retries=1, max_lateness=HOUR)
    at(HOUR)
    call(conn, "finish_job", **claim(conn)[1], error="boom", retry_in=MINUTE)
    at(4 * HOUR)

    assert claim(conn) is None

    state = conn.execute("select state, run from rota.jobs where id = %s", [job_id]).fetchone()
    assert state == ("COMPLETED", 1)


def test_a_fixed_delay_is_run_however_late_and_keeps_its_retry_through_a_pause(conn, at):
    hourly(conn, fixed_delay=True, misfire="skip", max_retries=1)
    at(30 * HOUR)
    call(conn, "finish_job", **claim(conn)[1], error="boom", retry_in=MINUTE)
    call(conn, "pause_schedule", name="tick")
    at(40 * HOUR)
    call(conn, "resume_schedule", name="tick")

    slot, held = claim(conn)

    assert (slot, status(conn)["run"]) == (1, 1)
    call(conn, "finish_job", **held)
    assert hours(status(conn)["run_at"]) == pytest.approx(41, abs=0.01)
    assert skipped(conn) == []


def test_a_fixed_delay_that_was_paused_past_its_end_is_over(conn, at):
    job_id = hourly(conn, fixed_delay=True, ends_at=MONDAY + 3 * HOUR)
    call(conn, "pause_schedule", name="tick")
    at(4 * HOUR)

    (told,) = call(conn, "resume_schedule", name="tick")

    assert told == {"job_id": job_id, "state": "COMPLETED", "run_at": None}


def test_a_schedule_that_comes_back_before_its_slot_runs_it(conn, at):
    job_id = hourly(conn)
    at(HOUR)
    run(conn)
    at(HOUR + 10 * MINUTE)
    call(conn, "delete_schedule", name="tick")

    (told,) = call(conn, "retry_job", job_id=job_id)

    assert hours(told["run_at"]) == 2


def test_a_schedule_saved_again_before_its_deleted_run_ended_lives_on(conn, at):
    job_id = hourly(conn)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "delete_schedule", name="tick")

    assert hourly(conn) == job_id

    (told,) = call(conn, "finish_job", **held, error="stopped")
    assert (told["state"], hours(told["run_at"])) == ("SCHEDULED", 2)


def test_slots_missed_long_after_a_dense_time_are_counted_at_once(conn, at):
    call(
        conn,
        "schedule_job",
        task="tick",
        cron="* * * 1 *",
        misfire="all",
        misfire_cap=2,
        name="tick",
    )
    at(300 * DAY)

    conn.execute("set track_functions = 'all'")
    slot, held = claim(conn)
    conn.execute("select pg_stat_force_next_flush()")
    (calls,) = conn.execute(
        "select sum(calls) from pg_stat_user_functions where funcname = '_slot_after'"
    ).fetchone()

    assert slot == pytest.approx(25 * 24 - 2 / 60)
    assert calls < 5000  # of 36,000 slots
    call(conn, "finish_job", **held)
    assert run(conn) == pytest.approx(25 * 24 - 1 / 60)


@pytest.mark.parametrize("due", [1, 2, 3, 4, 5])
def test_of_the_slots_that_were_missed_as_many_run_as_the_cap_says(conn, at, due):
    hourly(conn, misfire="all", misfire_cap=3)
    at(due * HOUR + MINUTE)

    ran = []
    while claimed := claim(conn):
        ran.append(claimed[0])
        call(conn, "finish_job", **claimed[1])

    assert ran == [*range(1, due + 1)][-3:]
    assert [slots for slots, _ in skipped(conn)] == ([due - 3] if due > 3 else [])


def test_a_run_that_must_not_be_retried_is_followed_by_the_next(conn, at):
    hourly(conn, max_retries=3)
    at(HOUR)
    _, held = claim(conn)

    (told,) = call(conn, "finish_job", **held, error="no such customer", retry=False)

    assert hours(told["run_at"]) == 2
    assert status(conn)["run"] == 2
    assert skipped(conn) == []  # nothing was given up: nothing was left to try


def test_saving_a_schedule_anew_keeps_a_trigger_that_was_asked_for(conn, at):
    hourly(conn)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "trigger_schedule", name="tick")
    hourly(conn, payload=Jsonb({"new": 1}))
    at(HOUR + MINUTE)

    call(conn, "finish_job", **held)

    assert run(conn) == pytest.approx(1 + 1 / 60, abs=0.01)
    assert hours(status(conn)["scheduled_for"]) == 2


def test_a_trigger_is_for_one_run(conn, at):
    hourly(conn)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "trigger_schedule", name="tick")
    at(HOUR + MINUTE)
    call(conn, "finish_job", **held)

    _, held = claim(conn)
    at(HOUR + 2 * MINUTE)
    (told,) = call(conn, "finish_job", **held)

    assert hours(told["run_at"]) == 2


def test_a_schedule_at_its_last_run_is_not_triggered_once_more(conn, at):
    hourly(conn, max_runs=1)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "trigger_schedule", name="tick")

    assert call(conn, "finish_job", **held)[0]["state"] == "COMPLETED"


def test_a_retried_schedule_forgets_its_pause_and_its_trigger(conn, at):
    job_id = hourly(conn)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "trigger_schedule", name="tick")
    call(conn, "pause_schedule", name="tick")
    call(conn, "delete_schedule", name="tick")
    call(conn, "finish_job", **held)
    at(HOUR + MINUTE)

    (told,) = call(conn, "retry_job", job_id=job_id)

    assert hours(told["run_at"]) == 2
    assert status(conn)["paused_at"] is None
    at(2 * HOUR)
    _, held = claim(conn)
    assert hours(call(conn, "finish_job", **held)[0]["run_at"]) == 3


def test_a_schedule_that_had_its_last_run_cannot_come_back(conn, at):
    job_id = hourly(conn, max_runs=1)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "delete_schedule", name="tick")
    call(conn, "finish_job", **held)

    with pytest.raises(psycopg.Error, match="is over") as caught:
        call(conn, "retry_job", job_id=job_id)

    assert caught.value.sqlstate == "RTC01"
    assert conn.execute("select state from rota.jobs").fetchall() == [("CANCELLED",)]


def test_a_fixed_delay_comes_back_at_once(conn, at):
    job_id = hourly(conn, fixed_delay=True)
    call(conn, "delete_schedule", name="tick")
    at(30 * MINUTE)

    (told,) = call(conn, "retry_job", job_id=job_id)

    assert hours(told["run_at"]) == pytest.approx(0.5, abs=0.01)


def test_a_schedule_paused_twice_was_paused_when_it_was_paused_first(conn, at):
    hourly(conn)
    call(conn, "pause_schedule", name="tick")
    first = status(conn)["paused_at"]
    at(10 * MINUTE)

    call(conn, "pause_schedule", name="tick")

    assert status(conn)["paused_at"] == first


def test_a_resume_tells_where_the_schedule_stands(conn, at):
    job_id = hourly(conn)
    told = {"job_id": job_id, "state": "SCHEDULED", "run_at": MONDAY + HOUR}
    assert call(conn, "resume_schedule", name="tick") == [told]

    call(conn, "pause_schedule", name="tick")
    assert call(conn, "pause_schedule", name="tick") == [told | {"run_at": None}]
    assert call(conn, "resume_schedule", name="tick") == [told]
    at(HOUR)
    claim(conn)
    call(conn, "pause_schedule", name="tick")
    (running,) = call(conn, "resume_schedule", name="tick")
    assert (running["job_id"], running["state"]) == (job_id, "RUNNING")
    assert status(conn)["paused_at"] is None


@pytest.mark.parametrize("action", ["pause_schedule", "resume_schedule", "trigger_schedule"])
def test_what_is_done_to_one_schedule_is_not_done_to_another(conn, at, action):
    for name in ("other", "tick"):
        hourly(conn, name=name)
        if action == "resume_schedule":
            call(conn, "pause_schedule", name=name)
    query = "select * from rota.schedule_status where name = 'other'"
    before = conn.execute(query).fetchall()

    call(conn, action, name="tick")

    assert conn.execute(query).fetchall() == before


def test_a_trigger_of_one_schedule_is_not_taken_by_the_run_of_another(conn, at):
    hourly(conn)
    hourly(conn, name="other", task="other", starts_at=MONDAY + HOUR + MINUTE)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "trigger_schedule", name="tick")
    at(HOUR + 2 * MINUTE)
    _, other = claim(conn)

    assert hours(call(conn, "finish_job", **other)[0]["run_at"]) == pytest.approx(2 + 1 / 60)
    (told,) = call(conn, "finish_job", **held)

    assert hours(told["run_at"]) == pytest.approx(1 + 2 / 60, abs=0.01)


def test_a_new_timing_spreads_its_starts_by_the_jitter(conn, at):
    for number in range(40):
        hourly(conn, name=str(number))
        hourly(conn, name=str(number), every=2 * HOUR, jitter=10 * MINUTE)

    delays = [
        run_at - slot
        for run_at, slot in conn.execute("select run_at, scheduled_for from rota.schedule_status")
    ]
    assert all(timedelta(0) <= delay <= 10 * MINUTE for delay in delays)
    assert max(delays) > 5 * MINUTE > min(delays)


@pytest.mark.parametrize("by", ["a run that ended", "a resume", "a claim that stepped over it"])
def test_each_slot_that_lies_ahead_is_spread_by_the_jitter(conn, at, by):
    for number in range(40):
        hourly(conn, name=str(number), jitter=10 * MINUTE, misfire="skip")
        if by == "a resume":
            call(conn, "pause_schedule", name=str(number))
    at(HOUR + 30 * MINUTE if by != "a run that ended" else HOUR + 10 * MINUTE)
    if by.startswith("a r"):
        conn.execute("update rota.schedules set max_lateness = '1 hour' where job_id > 0")
    for row in call(conn, "claim_next_job", max_jobs=100):
        call(conn, "finish_job", job_id=row["id"], token=row["token"])
    for number in range(40 if by == "a resume" else 0):
        call(conn, "resume_schedule", name=str(number))

    delays = [
        run_at - slot
        for run_at, slot in conn.execute("select run_at, scheduled_for from rota.schedule_status")
    ]
    assert len(delays) == 40
    assert all(timedelta(0) <= delay <= 10 * MINUTE for delay in delays)
    assert max(delays) > 5 * MINUTE > min(delays)


CHANGES = {
    "every": {"every": 90 * MINUTE},
    "cron": {"every": None, "cron": "10 * * * *"},
    "starts_at": {"starts_at": MONDAY + HOUR + 20 * MINUTE},
    "ends_at": {"ends_at": MONDAY + DAY},
    "fixed_delay": {"fixed_delay": True},
    "jitter": {"jitter": MINUTE},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("timing", ["interval", "cron"])
def test_a_new_timing_is_followed_from_the_slot_ahead_on(conn, at, timing, change):
    """What a schedule of the new timing would run first, the updated one runs next."""
    old = {} if timing == "interval" else {"every": None, "cron": "0 * * * *"}
    new = {**old, **CHANGES[change]}
    if new.get("cron") and (new.get("every") or new.get("fixed_delay")):
        new["cron"] = None
        new.setdefault("every", HOUR)
        new["every"] = new["every"] or HOUR
    hourly(conn, **old)
    at(10 * MINUTE)
    hourly(conn, **new)
    hourly(conn, **{"starts_at": MONDAY + HOUR, **new}, name="model")

    slots = conn.execute("select scheduled_for from rota.schedule_status order by name").fetchall()
    assert slots[0] == slots[1]


def test_a_new_zone_moves_the_slot_ahead(conn, at):
    hourly(conn, every=None, cron="0 9 * * *")
    hourly(conn, every=None, cron="0 9 * * *", time_zone="Asia/Tokyo")

    assert hours(status(conn)["scheduled_for"]) == 24


def test_of_a_backfill_the_jobs_come_in_the_order_of_the_slots(conn, at):
    hourly(conn, max_retries=4, timeout=MINUTE)
    made = call(conn, "backfill_schedule", name="tick", starts_at=MONDAY, ends_at=MONDAY + 5 * HOUR)

    slots = [
        hours(conn.execute("select scheduled_for from rota.jobs where id = %s", [i]).fetchone()[0])
        for i in (row["job_id"] for row in made)
    ]

    assert slots == [1, 2, 3, 4]


def test_a_backfill_of_a_fixed_delay_is_refused_with_its_reason(conn, at):
    hourly(conn, fixed_delay=True)

    with pytest.raises(psycopg.Error, match="fixed_delay has no slots") as caught:
        call(conn, "backfill_schedule", name="tick", starts_at=MONDAY, ends_at=MONDAY + HOUR)

    assert caught.value.sqlstate == "RTV01"


def test_a_backfill_reaches_back_before_the_start_of_a_cron_but_not_of_an_interval(conn, at):
    hourly(conn, every=None, cron="0 * * * *", starts_at=MONDAY + 2 * HOUR)
    hourly(conn, name="interval", starts_at=MONDAY + 2 * HOUR)
    found = {
        name: len(
            call(conn, "backfill_schedule", name=name, starts_at=MONDAY, ends_at=MONDAY + 4 * HOUR)
        )
        for name in ("tick", "interval")
    }

    assert found == {"tick": 4, "interval": 2}


def test_an_update_with_the_same_timing_leaves_the_start_where_its_jitter_put_it(conn, at):
    hourly(conn, jitter=30 * MINUTE)
    before = status(conn)["run_at"]

    for _ in range(3):
        hourly(conn, jitter=30 * MINUTE)

    assert status(conn)["run_at"] == before


def test_a_retry_that_waited_through_a_pause_runs_also_if_no_slot_follows(conn, at):
    hourly(conn, max_retries=2, ends_at=MONDAY + HOUR + 30 * MINUTE)
    at(HOUR)
    call(conn, "finish_job", **claim(conn)[1], error="boom", retry_in=MINUTE)
    call(conn, "pause_schedule", name="tick")
    at(HOUR + 10 * MINUTE)

    (told,) = call(conn, "resume_schedule", name="tick")

    assert told["state"] == "SCHEDULED"
    assert run(conn) == 1


def test_the_last_slot_is_the_last_before_the_end(conn, at):
    """ends_at itself is no slot; a moment later it would be."""
    for name, end in (("tick", 3 * HOUR), ("later", 3 * HOUR + timedelta(microseconds=1))):
        hourly(conn, name=name, ends_at=MONDAY + end, misfire="all")
    at(3 * HOUR + MINUTE)
    ran = {"tick": [], "later": []}

    while rows := call(conn, "claim_next_job", max_jobs=10):
        for row in rows:
            name = conn.execute("select name from rota.jobs where id = %s", [row["id"]]).fetchone()
            ran[name[0]].append(hours(row["scheduled_for"]))
            call(conn, "finish_job", job_id=row["id"], token=row["token"])

    assert ran == {"tick": [1, 2], "later": [1, 2, 3]}


@pytest.mark.parametrize("fixed_delay", [False, True])
def test_a_run_of_a_schedule_may_be_the_last_before_its_end(conn, at, fixed_delay):
    hourly(conn, fixed_delay=fixed_delay, ends_at=MONDAY + 2 * HOUR + MINUTE)
    at(HOUR)
    (told,) = call(conn, "finish_job", **claim(conn)[1])
    assert told["state"] == "SCHEDULED"
    at(2 * HOUR + 30 * SECOND)

    (told,) = call(conn, "finish_job", **claim(conn)[1])

    assert told["state"] == "COMPLETED"


def test_a_schedule_is_late_from_its_lateness_on(conn, at):
    for name, lateness in (("late", 29 * MINUTE), ("in time", 31 * MINUTE)):
        hourly(conn, name=name, max_lateness=lateness)
    at(HOUR + 30 * MINUTE)

    (row,) = call(conn, "claim_next_job", max_jobs=10)

    name = conn.execute("select name from rota.jobs where id = %s", [row["id"]]).fetchone()
    assert name == ("in time",)


def test_a_skipped_slot_is_on_record_with_the_run_that_follows(conn, at):
    job_id = hourly(conn, misfire="skip")
    at(3 * HOUR + 30 * MINUTE)
    assert claim(conn) is None

    cursor = conn.cursor(row_factory=dict_row)
    (row,) = cursor.execute("select * from rota.executions").fetchall()

    assert row.pop("finished_at") >= MONDAY + 3 * HOUR + 30 * MINUTE
    assert row == {
        "job_id": job_id,
        "run": 1,
        "attempt": 0,
        "outcome": "SKIPPED",
        "worker": None,
        "started_at": None,
        "scheduled_for": MONDAY + HOUR,
        "job_state": "SCHEDULED",
        "next_run_at": MONDAY + 4 * HOUR,
        "error": "3 slots were missed; misfire policy skip",
        "result": {"slots": 3},
    }


def test_a_deleted_and_saved_schedule_is_asked_to_end_no_more(conn, at):
    hourly(conn)
    at(HOUR)
    _, held = claim(conn)
    call(conn, "delete_schedule", name="tick")
    assert call(conn, "heartbeat_job", **held)[0]["cancel_requested"] is True

    hourly(conn)

    assert call(conn, "heartbeat_job", **held)[0]["cancel_requested"] is False
    found = conn.execute("select cancel_requested_at, cancel_reason from rota.jobs").fetchall()
    assert found == [(None, None)]


def test_the_settings_of_its_queue_are_defaults_of_a_schedule_when_it_is_made(conn, at):
    call(conn, "configure_queue", queue="mail", max_retries=9, timeout=2 * MINUTE)
    call(conn, "schedule_job", task="tick", every=HOUR, name="tick", queue="mail")
    assert (status(conn)["max_retries"], status(conn)["timeout"]) == (9, 2 * MINUTE)

    call(conn, "configure_queue", queue="mail", max_retries=8, timeout=3 * MINUTE)
    call(conn, "schedule_job", task="tick", every=HOUR, name="tick", queue="mail")

    assert (status(conn)["max_retries"], status(conn)["timeout"]) == (9, 2 * MINUTE)


def test_a_retry_that_waits_keeps_its_attempt_whatever_is_saved(conn, at):
    """One that runs counts as not yet retried."""
    hourly(conn, max_retries=3)
    at(HOUR)
    _, held = claim(conn)
    hourly(conn, max_retries=0)
    assert status(conn)["max_retries"] == 0

    hourly(conn, max_retries=3)
    call(conn, "finish_job", **held, error="boom", retry_in=MINUTE)
    hourly(conn, max_retries=0)
    assert status(conn)["max_retries"] == 1


def test_the_last_run_stands_for_the_last_slot_that_was_missed(conn, at):
    hourly(conn, max_runs=1)
    at(4 * HOUR + MINUTE)

    assert run(conn) == 4
    assert [slots for slots, _ in skipped(conn)] == [3]


def test_an_update_between_two_attempts_makes_no_attempt_twice(conn):
    schedule = {"task": "tick", "every": timedelta(hours=1), "name": "tick"}
    call(conn, "schedule_job", **schedule)
    (claimed,) = call(conn, "claim_next_job")
    call(
        conn,
        "finish_job",
        job_id=claimed["id"],
        token=claimed["token"],
        error="boom",
        retry_in=timedelta(0),
    )

    call(conn, "schedule_job", **schedule)

    (again,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=again["id"], token=again["token"])
    executions = conn.execute(
        "select outcome, (run, attempt) > (1, 1) from rota.executions order by run, attempt"
    ).fetchall()
    assert executions == [("FAILED", False), ("SUCCEEDED", True)]


def test_a_retry_that_waits_is_not_lost_when_the_update_allows_none(conn):
    schedule = {"task": "tick", "every": timedelta(hours=1), "name": "tick"}
    call(conn, "schedule_job", **schedule, max_retries=2)
    (claimed,) = call(conn, "claim_next_job")
    lease = {"job_id": claimed["id"], "token": claimed["token"]}
    call(conn, "finish_job", **lease, error="boom", retry_in=timedelta(0))

    call(conn, "schedule_job", **schedule, max_retries=0)

    (again,) = call(conn, "claim_next_job")
    assert again["attempt"] == 2
    lease = {"job_id": again["id"], "token": again["token"]}
    (told,) = call(conn, "finish_job", **lease, error="boom", retry_in=timedelta(0))
    assert told["run_at"] > again["scheduled_for"] + timedelta(minutes=59)


@pytest.mark.parametrize("timing", [{"every": timedelta(hours=1)}, {"cron": "0 4 * * *"}])
@pytest.mark.parametrize("paused", [False, True])
def test_an_end_before_the_start_that_is_kept_is_refused_by_name(conn, timing, paused):
    start = datetime(2035, 1, 1, tzinfo=UTC)
    call(conn, "schedule_job", task="t", name="s", starts_at=start, **timing)
    if paused:
        call(conn, "pause_schedule", name="s")

    with pytest.raises(psycopg.Error, match="ends_at must be later than starts_at") as caught:
        call(conn, "schedule_job", task="other", name="s", ends_at=start, **timing)

    assert caught.value.sqlstate == "RTV01"
    kept = conn.execute("select task, starts_at, ends_at from rota.schedule_status").fetchall()
    assert kept == [("t", start, None)]


def test_an_end_in_the_past_is_refused_by_name(conn):
    with pytest.raises(psycopg.Error, match="ends_at must be later than starts_at") as caught:
        call(
            conn,
            "schedule_job",
            task="t",
            every=timedelta(hours=1),
            ends_at=datetime.now(UTC) - timedelta(seconds=1),
        )

    assert caught.value.sqlstate == "RTV01"
