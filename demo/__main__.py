"""Enqueue a hundred mixed jobs and show them until they settle: ``rota demo``."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from rota.db.session import writable
from rota.terminal import printable

# Where `make run` says how to reach its database.
URL_FILE = Path(os.environ.get("ROTA_STATE", ".rota")) / "url"
PATIENCE = 180.0  # seconds
REFRESH = 0.25  # seconds
STATES = ("SCHEDULED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED")
BAR = 40  # characters

Connection = psycopg.Connection[tuple[Any, ...]]


def mixed_jobs() -> list[dict[str, Any]]:
    """Return ninety-nine jobs: quick, slow, unreliable, and one that cannot succeed."""
    text = "the quick brown fox jumps over the lazy dog " * 50
    jobs = [{"task": "echo", "payload": {"number": number}} for number in range(40)]
    jobs += [{"task": "flaky", "payload": {"probability": 0.3}} for _ in range(28)]
    jobs += [{"task": "sleep", "payload": {"seconds": 0.2 * (n % 5 + 1)}} for n in range(15)]
    jobs += [{"task": "count_words", "payload": {"text": text}} for _ in range(15)]
    jobs += [{"task": "flaky", "payload": {"probability": 1}, "max_retries": 2}]
    return jobs


def count_states(conn: Connection, ids: list[int]) -> dict[str, int]:
    """Return how many of these jobs are in each state."""
    rows = conn.execute(
        "select j.state, count(*) from rota.jobs as j where j.id = any(%s) group by j.state", [ids]
    ).fetchall()
    return dict(rows)


def show(counts: dict[str, int], runs: int, seconds: float) -> None:
    """Draw the states, over what was drawn before where the output is a terminal."""
    total = sum(counts.values())
    lines = [f"after {seconds:5.1f} s; the interval job has run {runs} times"]
    for state in STATES:
        count = counts.get(state, 0)
        lines.append(f"  {state:<10}{count:>4}  {'█' * round(BAR * count / total)}")
    if sys.stdout.isatty():
        print("".join(f"\x1b[2K{line}\n" for line in lines), end=f"\x1b[{len(lines)}A", flush=True)
    else:
        print(" ".join(f"{state}={counts.get(state, 0)}" for state in STATES), flush=True)


def summarize(conn: Connection, ids: list[int], poisoned: int) -> None:
    """Print how the jobs ended, task by task, and the history of the poisoned one."""
    rows = conn.execute(
        """
        select j.task, j.state, count(*), sum(j.attempt)
        from rota.jobs as j
        where j.id = any(%s)
        group by j.task, j.state
        order by j.task, j.state
        """,
        [ids],
    ).fetchall()
    print(f"{'task':<14}{'state':<12}{'jobs':>5}{'attempts':>10}")
    for task, state, jobs, attempts in rows:
        print(f"{task:<14}{state:<12}{jobs:>5}{attempts:>10}")
    print(f"\njob {poisoned}, which fails every time:")
    history = conn.execute(
        """
        select e.attempt, e.outcome, e.started_at, e.error
        from rota.executions as e
        where e.job_id = %s
        order by e.run, e.attempt
        """,
        [poisoned],
    ).fetchall()
    for attempt, outcome, started_at, error in history:
        reason = printable((error or "").strip().rpartition("\n")[2])
        print(f"  attempt {attempt}  {outcome:<10} {started_at:%H:%M:%S}  {reason}")
    print("\nLook closer in psql: the views rota.jobs and rota.executions have it all.")


def demonstrate(conn: Connection) -> int:
    """Enqueue, show, sum up; return the exit code."""
    workers = conn.execute(
        """
        select count(*)
        from rota.worker_status as w
        where w.stopped_at is null and w.last_seen_at > now() - interval '90 seconds'
            and 'default' = any(w.queues) and 'echo' = any(w.tasks)
        """
    ).fetchone()
    if not workers or not workers[0]:
        print(
            "No worker of the queue default knows the demo's tasks: start one with make run,"
            " or rota worker --tasks rota.demo.tasks"
        )
        return 1
    jobs = Jsonb(mixed_jobs())
    ids = [row["job_id"] for row in call(conn, "enqueue_jobs", jobs=jobs)]
    every = Jsonb({"tick": True})
    (interval,) = call(conn, "schedule_job", task="echo", payload=every, every="2 seconds")
    began = time.monotonic()
    counts: dict[str, int] = {}
    try:
        while True:
            before, counts = counts, count_states(conn, ids)
            runs = conn.execute(
                "select count(*) from rota.executions as e where e.job_id = %s",
                [interval["job_id"]],
            ).fetchone()
            if sys.stdout.isatty() or counts != before:
                show(counts, runs[0] if runs else 0, time.monotonic() - began)
            is_settled = not counts.keys() & {"SCHEDULED", "RUNNING"}
            if is_settled or time.monotonic() - began > PATIENCE:
                break
            time.sleep(REFRESH)
    finally:
        if sys.stdout.isatty():
            print("\n" * (len(STATES) + 1))  # below what was drawn
        call(conn, "cancel_job", job_id=interval["job_id"], reason="the demo has ended")
    if not is_settled:
        print(f"Not settled after {PATIENCE:g} seconds: {counts}")
        return 1
    summarize(conn, ids, ids[-1])
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run against DATABASE_URL, or the server that ``make run`` started."""
    argparse.ArgumentParser(
        prog="rota demo",
        description="Enqueue a hundred jobs and show them until they settle, in the database that"
        " DATABASE_URL names or that rota run has started here.",
    ).parse_args(arguments)
    url = os.environ.get("DATABASE_URL")
    if not url and URL_FILE.exists():
        url = URL_FILE.read_text().strip()
    if not url:
        print("No database: start one with make run in another terminal, or set DATABASE_URL.")
        return 2
    try:
        with psycopg.connect(writable(url), autocommit=True, application_name="rota demo") as conn:
            return demonstrate(conn)
    except ValueError as error:
        print(error)
        return 2
    except psycopg.OperationalError as error:
        print(f"The database does not answer: {error}")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
