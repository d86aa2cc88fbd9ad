"""Everybody calls everything at once, and no slot runs twice.

A hundred connections, or fewer where the server has no room for them, each of which calls as fast
as it can. ``ROTA_CONNECTIONS=1000`` makes so many, on a server of the test's own;
``ROTA_ONCE_SECONDS`` makes it longer.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import Connection

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.db.gateway import call
from tests.conftest import SERVER_VERSION, TEST_SETTINGS, new_connection

CONNECTIONS = int(os.environ.get("ROTA_CONNECTIONS", "0"))
SECONDS = float(os.environ.get("ROTA_ONCE_SECONDS", "5"))
PATIENCE = 60.0  # seconds more
ENOUGH = 50  # runs
NAMES = [f"schedule {n}" for n in range(4)]
MILLISECOND = timedelta(milliseconds=1)
LEASES = [20 * MILLISECOND, timedelta(minutes=1)]
# Everybody works, and does one thing besides: what a session calls for the first time costs the
# server tens of milliseconds, which a thousand sessions would spend on nothing else.
WORK = ("claim_next_job", "finish_job")
BESIDES = {
    "release_job": 3,
    "recover_jobs": 5,
    "schedule_job": 10,
    "trigger_schedule": 5,
    "pause_schedule": 2,
    "resume_schedule": 6,
    "maintain": 2,
}


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database that so many can connect to."""
    if not CONNECTIONS:
        yield request.getfixturevalue("db")
        return
    folder: Path = request.getfixturevalue("server_folder")
    server_settings = TEST_SETTINGS | {
        "max_connections": str(CONNECTIONS + 20),
        "log_lock_waits": "off",
    }
    with Cluster(folder / "pg", SERVER_VERSION, server_settings) as server:
        deploy(server.url())
        yield server.url()
        with psycopg.connect(server.url()) as conn:
            assert conn.execute("select * from rota.check_invariants()").fetchall() == []


class Caller(threading.Thread):
    """A session that calls whatever it draws, until it is time to stop."""

    def __init__(self, conn: Connection, seed: int, held: list[dict], stop: threading.Event):
        super().__init__(daemon=True)
        self._conn = conn
        self._random = random.Random(seed)
        besides = [name for name, number in BESIDES.items() for _ in range(number)]
        self._functions = [*WORK, *WORK, besides[seed % len(besides)]]
        self._endings = [name for name in self._functions if name in ("finish_job", "release_job")]
        self._own: list[dict] = []  # what this one has claimed last
        self._held = held  # what anybody has claimed: two may finish the same
        self._stop_calling = stop
        self.answered: Counter[str] = Counter()
        self.unexpected: list[str] = []

    def run(self) -> None:
        while not self._stop_calling.is_set():
            function = self._random.choice(self._endings if self._own else self._functions)
            try:
                rows = call(self._conn, function, **self._arguments(function))
                self.answered[function] += 1
                if function == "claim_next_job":
                    self._own = [{"job_id": r["id"], "token": r["token"]} for r in rows]
                    self._held.extend(self._own)
            except psycopg.Error as error:
                if not (error.sqlstate or "").startswith("RT"):
                    self.unexpected.append(f"{function}: {error.sqlstate}: {error}")

    def _arguments(self, function: str) -> dict:
        pick = self._random
        match function:
            case "claim_next_job":
                return {"max_jobs": pick.randint(1, 4), "lease": pick.choice(LEASES)}
            case "finish_job" | "release_job":
                lease = self._own.pop() if self._own else pick.choice(self._held[-8:])
                if function == "release_job" or pick.random() < 0.7:
                    return lease
                return lease | {"error": "boom", "retry_in": pick.choice([0, 5]) * MILLISECOND}
            case "schedule_job":
                return schedule(
                    pick.choice(NAMES),
                    every=pick.choice([10, 15]) * MILLISECOND,
                    misfire=pick.choice(["once", "all"]),
                    overlap=pick.choice(["coalesce", "catch_up"]),
                )
            case "recover_jobs" | "maintain":
                return {}
            case _:
                return {"name": pick.choice(NAMES)}


def schedule(name: str, **options) -> dict:
    return {"task": "tick", "name": name, "starts_at": "2020-01-01 00:00+00"} | options


def answers(callers: list[Caller]) -> Counter[str]:
    return sum((caller.answered.copy() for caller in callers), Counter())


def runs_that_succeeded(conn: Connection) -> int:
    return conn.execute(
        "select count(distinct (job_id, run)) from rota.job_executions where outcome = 'SUCCEEDED'"
    ).fetchone()[0]


def everybody_was_heard(callers: list[Caller], conn: Connection) -> bool:
    # of a thousand sessions, the few that release may never get a lease
    return {*answers(callers), "release_job"} == {*WORK, *BESIDES} and (
        runs_that_succeeded(conn) > ENOUGH
    )


def test_however_many_call_at_once_no_slot_runs_twice(url: str) -> None:
    with new_connection(url, autocommit=True) as conn:
        for name in NAMES:
            call(conn, "schedule_job", **schedule(name, every=10 * MILLISECOND))
        room = int(conn.execute("show max_connections").fetchone()[0]) - 20
        number = CONNECTIONS or min(100, room)
        nobody = {"job_id": 0, "token": "00000000-0000-0000-0000-000000000000"}
        held, stop = [nobody], threading.Event()
        callers = [
            Caller(new_connection(url, autocommit=True), seed, held, stop) for seed in range(number)
        ]
        for caller in callers:
            caller.start()
        time.sleep(SECONDS)  # not to wait for anything: so long they go on, and on a slow machine
        deadline = time.monotonic() + PATIENCE  # until it has proved something
        while not everybody_was_heard(callers, conn) and time.monotonic() < deadline:
            time.sleep(0.5)
        stop.set()
        for caller in callers:
            caller.join(60)
            caller._conn.close()

        assert [text for caller in callers for text in caller.unexpected] == []
        twice = conn.execute(
            "select job_id, scheduled_for, array_agg(distinct run) from rota.job_executions"
            " where outcome <> 'SKIPPED'"
            " group by job_id, scheduled_for having count(distinct run) > 1"
        ).fetchall()
        moved = conn.execute(
            "select job_id, run, array_agg(distinct scheduled_for) from rota.job_executions"
            " where outcome not in ('SKIPPED', 'RELEASED')"
            " group by job_id, run having count(distinct scheduled_for) > 1"
        ).fetchall()
        print(number, "connections,", runs_that_succeeded(conn), "runs,", answers(callers))
        assert (twice, moved) == ([], [])
        assert everybody_was_heard(callers, conn), "too little happened to prove anything"
