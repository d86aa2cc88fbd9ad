"""After an outage: everything is due at once, and no call does more than it can.

What settling a schedule costs is made large here, not measured: the function that computes it is
replaced by one that takes its time and then asks the original.
"""

import os
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from rota.db.gateway import call

MONDAY = datetime(2030, 1, 7, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = (
    timedelta(seconds=1),
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
)
SCHEDULES = int(os.environ.get("ROTA_OUTAGE_SCHEDULES", "200"))  # 5000 takes a minute


@pytest.fixture
def at(clock):
    """Put the clock to some time after that Monday's midnight; the clock still runs on."""

    def move(after):
        clock.set(MONDAY + after)

    move(timedelta(0))
    return move


def schedules(conn, number, **options):
    """Add so many schedules, due each minute unless told."""
    arguments = {"task": "tick", "starts_at": MONDAY, "max_retries": 0, **options}
    if "every" not in options:
        arguments |= {"cron": "* * * * *"} | options
    for place in range(number):
        call(conn, "schedule_job", name=f"{arguments['task']} {place}", **arguments)


def slow_settling(conn, seconds):
    """Have each schedule that is settled take so long."""
    conn.execute("alter function rota._missed_slots rename to _missed_slots_fast")
    conn.execute(
        sql.SQL(
            """
            create function rota._missed_slots(
                job rota.live_jobs,
                schedule rota.schedules,
                at timestamptz,
                out slot timestamptz,
                out skipped bigint,
                out error text
            )
                language plpgsql
            as $$
            begin
                perform pg_sleep({});
                select m.* into slot, skipped, error
                from rota._missed_slots_fast(job, schedule, at) as m;
            end;
            $$
            """
        ).format(sql.Literal(seconds))
    )


def claim(conn, **arguments):
    return call(conn, "claim_next_job", **{"max_jobs": 1000, **arguments})


def finish(conn, rows):
    call(
        conn,
        "finish_jobs",
        job_ids=[row["id"] for row in rows],
        tokens=[row["token"] for row in rows],
    )


def slots(conn):
    return dict(conn.execute("select id, scheduled_for from rota.live_jobs where run = 1"))


def test_a_claim_settles_some_schedules_and_leaves_the_others_as_they_are(conn, at):
    schedules(conn, 20)
    at(2 * DAY)
    slow_settling(conn, 0.03)
    before = slots(conn)

    rows = claim(conn)

    assert 1 <= len(rows) <= 6  # in a tenth of a second
    left = {job_id: slot for job_id, slot in slots(conn).items() if slot == before[job_id]}
    assert len(left) == 20 - len(rows)
    states = conn.execute("select state, count(*) from rota.jobs group by state").fetchall()
    assert dict(states) == {"RUNNING": len(rows), "SCHEDULED": len(left)}


def test_a_claim_settles_one_schedule_however_long_that_takes(conn, at):
    schedules(conn, 3)
    at(2 * DAY)
    slow_settling(conn, 0.3)

    assert [len(claim(conn)) for _ in range(4)] == [1, 1, 1, 0]


def test_a_claim_settles_one_schedule_of_a_lane_though_another_took_all_the_time(conn, at):
    schedules(conn, 1, task="late", cron="0 0 * * *", misfire="skip", priority=1)
    schedules(conn, 1)
    at(DAY + HOUR)
    slow_settling(conn, 1.1)

    assert [row["task"] for row in claim(conn)] == ["tick"]


def test_ordinary_jobs_found_with_schedules_are_claimed_with_them(conn, at):
    schedules(conn, 20)
    at(2 * DAY)
    for number in range(5):
        call(conn, "enqueue_job", task=f"ordinary {number}")
    slow_settling(conn, 0.03)

    tasks = [row["task"] for row in claim(conn)]

    assert [task for task in tasks if task != "tick"] == [f"ordinary {n}" for n in range(5)]
    assert 1 <= tasks.count("tick") <= 6


def test_a_claim_goes_on_behind_schedules_that_have_nothing_to_run(conn, at):
    schedules(conn, 30, cron="0 0 * * *", misfire="skip")
    at(DAY + HOUR)
    call(conn, "enqueue_job", task="ordinary")

    assert [row["task"] for row in claim(conn, max_jobs=1)] == ["ordinary"]

    skipped = conn.execute("select count(*) from rota.attempts where outcome = 'SKIPPED'")
    assert skipped.fetchone() == (30,)


def test_a_claim_ends_though_it_has_found_nothing_to_run(conn, at):
    schedules(conn, 20, cron="0 0 * * *", misfire="skip")
    at(DAY + HOUR)
    slow_settling(conn, 0.3)

    assert claim(conn, max_jobs=1) == []

    (settled,) = conn.execute(
        "select count(*) from rota.attempts where outcome = 'SKIPPED'"
    ).fetchone()
    assert 1 <= settled <= 5  # in a second


def test_no_job_of_a_lower_priority_overtakes_what_was_left(conn, at):
    schedules(conn, 20, priority=1)
    call(conn, "enqueue_job", task="low")
    at(2 * DAY)
    slow_settling(conn, 0.03)

    while (tasks := [row["task"] for row in claim(conn)]) and "low" not in tasks:
        assert set(tasks) == {"tick"}

    left = conn.execute("select count(*) from rota.jobs where state = 'SCHEDULED'").fetchone()
    assert left == (0,)


@pytest.mark.parametrize("overlap", ["coalesce", "catch_up"])
def test_a_schedule_that_catches_up_takes_turns_with_other_jobs(conn, at, overlap):
    schedules(conn, 1, misfire="all", misfire_cap=5, overlap=overlap)
    at(2 * DAY)
    call(conn, "enqueue_job", task="first")
    call(conn, "enqueue_job", task="second")

    order = []
    while rows := claim(conn, max_jobs=1):
        order.append(rows[0]["task"])
        finish(conn, rows)

    assert order == ["tick", "first", "second", *["tick"] * 4]


def test_a_missed_slot_is_late_from_when_it_was_due_not_from_when_its_turn_came(conn, at):
    schedules(conn, 1, every=HOUR, misfire="all", max_lateness=150 * MINUTE)
    at(10 * HOUR)
    rows = claim(conn)
    assert rows[0]["scheduled_for"] == MONDAY + 8 * HOUR
    at(12 * HOUR)
    finish(conn, rows)

    rows = claim(conn)

    assert rows[0]["scheduled_for"] == MONDAY + 10 * HOUR


def test_a_run_that_was_handed_back_is_late_from_when_it_may_run_again(conn, at):
    schedules(conn, 1, every=HOUR, misfire="skip")
    at(HOUR)
    (row,) = claim(conn)
    call(conn, "release_job", job_id=row["id"], token=row["token"], delay=30 * MINUTE)
    at(HOUR + 30 * MINUTE + SECOND)

    (again,) = claim(conn)

    assert (again["scheduled_for"], again["attempt"]) == (MONDAY + HOUR, 1)


def test_a_week_that_a_thousand_slots_were_missed_of_costs_no_call_more_than_a_moment(conn, at):
    """Each of these walked a thousand slots, which took a tenth of a second or two."""
    schedules(conn, 60, time_zone="Europe/Berlin", misfire="all", misfire_cap=1000)
    schedules(conn, 20, task="held")
    at(MINUTE)
    rows = claim(conn)
    held, lost = rows[:20], rows[20:]
    at(7 * DAY)
    conn.execute("set statement_timeout = '2 s'")

    finish(conn, held)
    assert call(conn, "recover_jobs") == [{"recover_jobs": len(lost)}]
    at(14 * DAY)
    assert len(claim(conn)) > 20
    at(21 * DAY)
    names = [f"held {place}" for place in range(20)]
    with conn.transaction():
        for function in ("pause_schedule", "trigger_schedule"):
            for name in names:
                call(conn, function, name=name)
    with pytest.raises(psycopg.Error, match="the range holds 30240 slots"):
        call(conn, "backfill_schedule", name="tick 0", starts_at=MONDAY, ends_at=MONDAY + 21 * DAY)


def test_all_schedules_are_settled_after_a_week_while_ordinary_jobs_flow(conn, at):
    schedules(conn, SCHEDULES, misfire="all", misfire_cap=1000)
    at(7 * DAY)
    call(conn, "enqueue_job", task="ordinary")
    conn.execute("set statement_timeout = '2 s'")
    began, claims, tasks = time.monotonic(), 0, []

    while conn.execute(
        "select 1 from rota.live_jobs where name is not null and run = 1"
    ).fetchone():
        rows = claim(conn)
        assert rows
        finish(conn, rows)
        tasks += [row["task"] for row in rows]
        claims += 1

    print(f"{len(tasks)} runs, {claims} claims, {time.monotonic() - began:.1f} s")
    settled = conn.execute(
        "select count(*) from rota.attempts where outcome = 'SKIPPED'"
        " and result ->> 'slots' = '9080'"
    ).fetchone()
    assert settled == (SCHEDULES,)
    assert "ordinary" in tasks
