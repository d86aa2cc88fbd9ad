"""A job that repeats goes on, however often it fails."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from rota.testing import Clock
from tests.waiting import wait_until

WORKER = (sys.executable, "-m", "rota.worker", "--tasks", "rota.demo.tasks")
RUNS = 50
EVERY = timedelta(minutes=1)
START = datetime(2031, 5, 17, 6, 0, 30, tzinfo=UTC)


def test_an_interval_job_whose_every_run_fails_goes_on_along_its_grid(
    db: str, conn: Connection, clock: Clock, tmp_path: Path
):
    clock.set(START)
    [row] = call(
        conn,
        "schedule_job",
        task="flaky",
        payload=Jsonb({"probability": 1}),
        every=EVERY,
        starts_at=START + EVERY,
        max_retries=0,
    )
    job = row["job_id"]

    def ended_runs() -> int:
        query = "select count(*) from rota.job_executions where job_id = %s"
        return conn.execute(query, [job]).fetchone()[0]

    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [*WORKER, "--poll", "0.05", "--concurrency", "1"],
            env={**os.environ, "DATABASE_URL": db},
            stdout=log,
            stderr=log,
        )
    try:
        for run in range(1, RUNS + 1):
            clock.advance(EVERY)
            wait_until(lambda run=run: ended_runs() == run)
    finally:
        worker.terminate()
        worker.wait(30)

    state, run, run_at = conn.execute(
        "select state, run, run_at from rota.jobs where id = %s", [job]
    ).fetchone()
    ended = conn.execute(
        """
        select e.run, e.outcome, e.scheduled_for from rota.job_executions as e
        where e.job_id = %s order by e.run
        """,
        [job],
    ).fetchall()
    assert state == "SCHEDULED"
    assert run > RUNS
    assert (run_at - START) % EVERY == timedelta()
    assert ended[:RUNS] == [
        (number, "FAILED", START + number * EVERY) for number in range(1, RUNS + 1)
    ]
