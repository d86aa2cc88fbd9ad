"""examples/minimal_worker.py, as a newcomer would run it, and as a cluster would kill it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

from tests.waiting import wait_until

EXAMPLE = Path(__file__).parents[1] / "examples" / "minimal_worker.py"


@pytest.fixture
def start(db: str) -> Iterator:
    """Start minimal workers; those left at the end are killed."""
    started = []

    def start_one(*queues: str) -> subprocess.Popen:
        started.append(
            subprocess.Popen(
                [sys.executable, EXAMPLE, *queues], env={**os.environ, "DATABASE_URL": db}
            )
        )
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()


def test_the_whole_idea_fits_on_a_page():
    assert len(EXAMPLE.read_text().splitlines()) < 100


def test_it_runs_jobs_and_says_how_they_ended(conn, start):
    start()
    conn.execute("select enqueue_job('add', %s)", [Jsonb({"a": 1, "b": 2})])
    conn.execute("select enqueue_job('add', %s, max_retries => 0)", [Jsonb({"a": 1})])

    wait_until(
        lambda: (
            conn.execute("select count(*) from jobs where finished_at is not null").fetchone()
            == (2,)
        )
    )

    assert conn.execute("select state, result, last_error from jobs order by id").fetchall() == [
        ("COMPLETED", 3, None),
        ("FAILED", None, "KeyError: 'b'"),
    ]


def test_it_stops_when_told_to_and_finishes_what_it_has(conn, start):
    worker = start()
    conn.execute("select enqueue_job('sleep', '{\"seconds\": 1}')")
    wait_until(lambda: conn.execute("select state from jobs").fetchone() == ("RUNNING",))

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(20) == 0
    assert conn.execute("select state from jobs").fetchall() == [("COMPLETED",)]


def test_nothing_is_lost_and_nothing_finished_twice_while_it_is_killed(conn, start, clock):
    jobs = [{"task": "echo", "payload": {"n": n}} for n in range(300)]
    conn.execute("select enqueue_jobs(%s)", [Jsonb(jobs)])
    conn.execute("select configure_queue('default', backoff_base => '1 millisecond')")

    def completed() -> int:
        return conn.execute("select count(*) from jobs where state = 'COMPLETED'").fetchone()[0]

    for kills in range(5):
        worker = start()
        wait_until(lambda least=40 * (kills + 1): completed() >= least)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    clock.advance(timedelta(seconds=20))  # past the lease of what the killed ones held
    start()
    wait_until(lambda: completed() == len(jobs))

    assert [
        json.dumps(result)
        for (result,) in conn.execute("select result from jobs order by id").fetchall()
    ] == [json.dumps(job["payload"]) for job in jobs]
    assert conn.execute(
        """
        select job_id from rota.executions where outcome = 'SUCCEEDED'
        group by job_id having count(*) > 1
        """
    ).fetchall() == []  # fmt: skip
