"""Whatever happens to a schedule, it keeps its word; a hypothesis machine makes it happen.

The histories interleave claims, results, crashes, updates, pauses, triggers, deletions, and a
clock that jumps forward and back. A run that a trigger asked for stands for no slot, so what is
said of slots leaves it out. ``make test`` makes the same histories each time;
``ROTA_SCHEDULE_EXAMPLES=1000`` makes so many new ones.
"""

import os
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg import Connection
from psycopg.rows import dict_row

from rota.db.gateway import call
from rota.testing import Clock
from tests.schedules import oracle

MONDAY = datetime(2030, 3, 25, tzinfo=UTC)  # the week in which the clocks of Berlin go forward
SECOND, MINUTE, HOUR, DAY = (
    timedelta(seconds=1),
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
)
CAP = 3
RANDOM = int(os.environ.get("ROTA_SCHEDULE_EXAMPLES", "0"))

BERLIN = "Europe/Berlin"
TIMINGS: list[dict[str, Any]] = [
    {"every": HOUR},
    {"every": 25 * MINUTE},
    {"every": "1 day", "time_zone": BERLIN},
    {"cron": "0 */2 * * *"},
    {"cron": "0,30 2,14 * * *", "time_zone": BERLIN},
]
timings = st.sampled_from(TIMINGS)
policies = st.fixed_dictionaries(
    {
        "misfire": st.sampled_from(["skip", "once", "all"]),
        "overlap": st.sampled_from(["coalesce", "catch_up"]),
        "max_retries": st.sampled_from([0, 2]),
    }
)
delays = st.sampled_from([timedelta(0), 10 * MINUTE, 3 * HOUR])


def slot_after(timing: dict[str, Any], after: datetime) -> datetime:
    """Ask the oracle for the next slot of a timing whose grid starts on that Monday."""
    zone = ZoneInfo(timing.get("time_zone", "UTC"))
    if "cron" in timing:
        begin = max(after, MONDAY - timedelta(microseconds=1))
        slot = oracle.next_run(timing["cron"], zone, begin, 3 * DAY)
        assert slot is not None
        return slot
    if timing["every"] == "1 day":
        return oracle.next_slot(MONDAY, 0, 1, timedelta(0), zone, after)
    return oracle.next_slot(MONDAY, 0, 0, timing["every"], zone, after)


def slots_between(timing: dict[str, Any], first: datetime, upto: datetime) -> int:
    """Count the slots after one moment and up to another."""
    number, slot = 0, slot_after(timing, first)
    while slot <= upto:
        number, slot = number + 1, slot_after(timing, slot)
    return number


class ScheduleMachine(RuleBasedStateMachine):
    """One schedule, in a queue of its own, and all that can happen to it."""

    numbers = count(1)

    def __init__(self, conn: Connection, clock: Clock) -> None:
        super().__init__()
        self.conn, self.clock = conn, clock
        self.name = f"schedule-{next(self.numbers)}"
        self.clock.set(MONDAY - 10 * MINUTE)

    @initialize(timing=timings, policy=policies, max_runs=st.sampled_from([None, None, 4]))
    def begin(self, timing: dict[str, Any], policy: dict[str, Any], max_runs: int | None) -> None:
        self.max_runs = max_runs
        self.timings: list[dict[str, Any]] = []
        self.held: dict[str, Any] | None = None
        self.over = False
        self.save(timing, policy)

    # -- the definition

    @rule(timing=timings, policy=policies)
    def save(self, timing: dict[str, Any], policy: dict[str, Any]) -> None:
        (row,) = call(
            self.conn,
            "schedule_job",
            task="tick",
            name=self.name,
            queue=self.name,
            starts_at=MONDAY,
            max_runs=self.max_runs,
            misfire_cap=CAP,
            **timing,
            **policy,
        )
        if row["created"]:
            assert self.held is None, "the running one was forgotten"
            self.job_id = row["job_id"]
            self.timings = []
            self.over = False
            self.triggers = self.triggered_runs = 0
            self.last_slot = MONDAY - SECOND
            self.last_run = 0
            self.paused = self.released = False
            self.is_pure = True  # every slot can be accounted for
        assert row["job_id"] == self.job_id
        if timing not in self.timings:
            self.timings.append(timing)
        self.timing, self.policy = timing, policy
        self.is_pure &= len(self.timings) == 1 and policy["max_retries"] == 0
        self.look()

    @precondition(lambda self: not self.over)
    @rule(timing=timings, policy=policies)
    def delete_and_save(self, timing: dict[str, Any], policy: dict[str, Any]) -> None:
        call(self.conn, "delete_schedule", name=self.name)
        self.over = self.held is None
        self.save(timing, policy)

    # -- operators

    @precondition(lambda self: not self.over)
    @rule()
    def pause(self) -> None:
        call(self.conn, "pause_schedule", name=self.name)
        self.paused = True
        self.look()

    @precondition(lambda self: not self.over)
    @rule()
    def resume(self) -> None:
        call(self.conn, "resume_schedule", name=self.name)
        self.paused = False
        self.look()

    @precondition(lambda self: not self.over)
    @rule()
    def trigger(self) -> None:
        call(self.conn, "trigger_schedule", name=self.name)
        self.triggers += 1
        self.is_pure = False
        self.look()

    # -- workers

    @rule()
    def claim(self) -> None:
        rows = call(self.conn, "claim_next_job", queues=[self.name], max_jobs=5)
        if self.held is not None or self.over:
            assert rows == [], "K6: two live runs"
        if rows:
            (self.held,) = rows
            self.was_claimed(self.held)
        self.look()

    @rule()
    def claim_the_next_run(self) -> None:
        self.wait_for_the_next_run()
        self.claim()

    @precondition(lambda self: self.held is not None)
    @rule()
    def succeed(self) -> None:
        self.ended(call(self.conn, "finish_job", **self.lease()))

    @precondition(lambda self: self.held is not None)
    @rule(retry=st.booleans(), delay=delays)
    def fail(self, retry: bool, delay: timedelta) -> None:
        ending = {"error": "boom", "retry": retry, "retry_in": delay}
        self.ended(call(self.conn, "finish_job", **self.lease(), **ending))

    @precondition(lambda self: self.held is not None)
    @rule(delay=delays)
    def release(self, delay: timedelta) -> None:
        self.released = True
        self.ended(call(self.conn, "release_job", **self.lease(), delay=delay))

    @precondition(lambda self: self.held is not None)
    @rule()
    def crash(self) -> None:
        assert self.held is not None
        self.clock.set(max(self.now(), self.held["lease_until"]) + SECOND)
        self.lease()
        call(self.conn, "recover_jobs")
        self.ended([])

    # -- time

    @rule(step=st.sampled_from([SECOND, 10 * MINUTE, HOUR, HOUR, 5 * HOUR, DAY, 3 * DAY]))
    def wait(self, step: timedelta) -> None:
        self.clock.advance(step)

    @rule()
    def wait_for_the_next_run(self) -> None:
        status = self.status()
        if status and status["run_at"] and status["run_at"] > self.now():
            self.clock.set(status["run_at"])

    @rule(step=st.sampled_from([MINUTE, 50 * MINUTE, 4 * HOUR, 2 * DAY]))
    def put_the_clock_back(self, step: timedelta) -> None:
        self.clock.advance(-step)

    # -- what must hold

    def now(self) -> datetime:
        return self.conn.execute("select rota._now()").fetchone()[0]

    def status(self) -> dict[str, Any] | None:
        cursor = self.conn.cursor(row_factory=dict_row)
        return cursor.execute(
            "select * from rota.schedule_status where job_id = %s", [self.job_id]
        ).fetchone()

    def lease(self) -> dict[str, Any]:
        held, self.held = self.held, None
        assert held is not None
        return {"job_id": held["id"], "token": held["token"]}

    def was_claimed(self, job: dict[str, Any]) -> None:
        assert job["id"] == self.job_id
        slot, now = job["scheduled_for"], job["lease_until"] - MINUTE
        run = self.status()["run"]
        is_slot = any(
            slot_after(timing, slot - timedelta(microseconds=1)) == slot for timing in self.timings
        )
        if run == self.last_run:
            assert job["attempt"] > 1 or self.released
            if is_slot:
                assert slot >= self.last_slot
        else:
            assert run == self.last_run + 1
            assert job["attempt"] == 1
            if is_slot:
                assert slot > self.last_slot, "K1, K2: a slot came again"
            else:
                self.triggered_runs += 1
                assert self.triggered_runs <= self.triggers, "neither a slot nor a trigger"
        self.last_run = run
        if is_slot:
            self.last_slot = slot
        assert self.max_runs is None or run <= self.max_runs
        is_last_retry = run == self.max_runs and job["attempt"] > 1
        if not self.paused and not is_last_retry:
            behind = slots_between(self.timing, slot, now)
            allowed = CAP - 1 if self.policy["misfire"] == "all" else 0
            assert behind <= allowed, "K3: more was caught up than the misfire policy says"
        if self.policy["misfire"] == "skip" and is_slot and not self.paused:
            assert job["attempt"] > 1 or self.released or now - slot <= MINUTE, "K3: too late"
        self.released = False

    def ended(self, outcomes: list[dict[str, Any]]) -> None:
        for outcome in outcomes:
            assert outcome["state"] in ("SCHEDULED", "COMPLETED"), "K2: a schedule never fails"
        self.look()

    def look(self) -> None:
        """Look at the schedule: it has a next run, unless it is paused or over."""
        status = self.status()
        if status is None:
            assert self.max_runs is not None and self.last_run >= self.max_runs, "K2: it is gone"
            assert self.held is None
            self.over = True
            return
        assert (status["state"] == "RUNNING") == (self.held is not None)
        assert (status["paused_at"] is not None) == self.paused
        if status["state"] == "SCHEDULED":
            assert status["run_at"] is not None or self.paused, "K2: no next run"
            if self.is_pure and not self.paused:
                self.account_for_every_slot(status["scheduled_for"])

    def account_for_every_slot(self, next_slot: datetime) -> None:
        """Each slot before the next one was either run or given up on record."""
        ran, skipped = self.conn.execute(
            "select count(distinct run) filter (where outcome not in ('SKIPPED', 'RELEASED')),"
            "    coalesce(sum((result ->> 'slots')::bigint) filter (where outcome = 'SKIPPED'), 0)"
            " from rota.job_executions where job_id = %s",
            [self.job_id],
        ).fetchone()
        assert ran + skipped == slots_between(
            self.timing, self.first_slot(), next_slot - timedelta(microseconds=1)
        ), f"{ran} ran, {skipped} were skipped"

    def first_slot(self) -> datetime:
        (created_at,) = self.conn.execute(
            "select created_at from rota.jobs where id = %s", [self.job_id]
        ).fetchone()
        return created_at - timedelta(microseconds=1)

    def teardown(self) -> None:
        if hasattr(self, "over") and not self.over:
            call(self.conn, "delete_schedule", name=self.name)
            if self.held is not None:
                call(self.conn, "finish_job", **self.lease())


@pytest.mark.on_first_server
def test_a_schedule_keeps_its_word_whatever_happens(conn: Connection, clock: Clock) -> None:
    run_state_machine_as_test(
        lambda: ScheduleMachine(conn, clock),
        settings=settings(
            max_examples=RANDOM or 100,
            stateful_step_count=30,
            derandomize=not RANDOM,
            database=None,
            deadline=None,
            phases=[Phase.generate],  # time goes on, so a history cannot be repeated exactly
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    outcomes = dict(
        conn.execute("select outcome, count(*) from rota.job_executions group by outcome")
    )
    print(outcomes)
    assert set(outcomes) >= {"SUCCEEDED", "FAILED", "LOST", "RELEASED", "SKIPPED"}


@pytest.mark.parametrize("timing", TIMINGS, ids=str)
def test_the_oracle_and_the_grid_agree(conn: Connection, timing: dict[str, Any]) -> None:
    """The property above would mean nothing if they did not."""
    shown = call(conn, "preview_schedule", **timing, n=20, from_time=MONDAY)

    slot = MONDAY - timedelta(microseconds=1)
    for row in shown:
        slot = slot_after(timing, slot)
        assert row["run_at"] == slot
