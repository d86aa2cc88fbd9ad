"""Worker processes, and jobs for them."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.pooler import pooler
from tests.waiting import wait_until

TASKS = ("--tasks", "rota.demo.tasks", "--tasks", "tests.worker.handlers")
THREAD_AND_COROUTINE = ["hold", "async_hold"]  # the same handler, once in each


class WorkerProcess:
    """A worker of its own process, and what it logged."""

    def __init__(
        self,
        url: str,
        log: Path,
        *arguments: str,
        tasks: tuple[str, ...] = TASKS,
        reads: bool = True,
    ) -> None:
        """Start it; nobody reads its standard error, a pipe, unless ``reads``."""
        self._log = log
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rota.worker", *tasks, *arguments],
                env={**os.environ, "DATABASE_URL": url},
                stderr=stderr if reads else subprocess.PIPE,
            )

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was logged so far; every line of it is JSON."""
        text = self._log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def logged(self, message: str) -> list[dict[str, Any]]:
        """Return the lines with this message."""
        return [line for line in self.lines if line["message"] == message]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for its end; return the exit code."""
        return self._process.wait(timeout)

    def stop(self) -> int:
        """Stop it gently; return the exit code."""
        self.send(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Kill it, whatever state it is in."""
        self._process.kill()
        self._process.wait()


def take_back(conn: Connection) -> bool:
    """Take all leases back, unless a heartbeat comes between: look, and do it again."""
    with conn.transaction():
        conn.execute("update rota.live_jobs set lease_until = now() - interval '1 second'")
        call(conn, "recover_jobs")
    return True


@pytest.fixture
def start_worker(db: str, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start workers by their command lines, ready to claim; those left at the end are killed."""
    started: list[WorkerProcess] = []

    def start(*arguments: str, url: str = db, ready: bool = True, **options: Any) -> WorkerProcess:
        worker = WorkerProcess(url, tmp_path / f"worker-{len(started)}.log", *arguments, **options)
        started.append(worker)
        if ready:
            wait_until(lambda: worker.logged("started") or worker.ended)
            assert not worker.ended, worker.lines
        return worker

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def login(
    conn: Connection, db: str, start_worker: Callable[..., WorkerProcess]
) -> Iterator[Callable[..., str]]:
    """Create roles that are in some of Rota's groups only; return the URLs they connect with."""
    roles = []

    def create(*groups: str) -> str:
        role = f"rota_test_{os.getpid()}_{len(roles)}"
        roles.append(role)
        conn.execute(f"create role {role} login password 'secret'")
        for group in groups:
            conn.execute(f"grant {group} to {role}")
        return make_conninfo(db, user=role, password="secret")

    yield create
    for role in roles:
        conn.execute(f"drop role {role}")


@pytest.fixture
def job(conn: Connection) -> Callable[[int], dict[str, Any]]:
    """Read a job from the view that people read."""

    def read(job_id: int) -> dict[str, Any]:
        with conn.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute("select * from rota.jobs where id = %s", [job_id]).fetchone()
            assert row is not None
            return row

    return read


@pytest.fixture
def outcomes(conn: Connection) -> Callable[[int], list[str]]:
    """Return how the attempts at a job went, in order."""

    def read(job_id: int) -> list[str]:
        rows = conn.execute(
            "select outcome from rota.executions where job_id = %s"
            " order by started_at, finished_at nulls last",
            [job_id],
        )
        return [outcome for (outcome,) in rows]

    return read


@pytest.fixture
def enqueue(conn: Connection) -> Callable[..., int]:
    """Enqueue a job; return its id."""

    def one(task: str, payload: Any = None, **arguments: Any) -> int:
        rows = call(conn, "enqueue_job", task=task, payload=Jsonb(payload), **arguments)
        return rows[0]["job_id"]

    return one


@pytest.fixture
def settled(conn: Connection) -> Callable[..., None]:
    """Wait until no job is left in the given states."""

    def wait(*states: str, timeout: float = 30.0) -> None:
        left = list(states or ("SCHEDULED", "RUNNING"))
        wait_until(
            lambda: (
                conn.execute(
                    "select not exists (select from rota.jobs where state = any(%s))", [left]
                ).fetchone()
                == (True,)
            ),
            timeout,
        )

    return wait


class Trace:
    """What handlers did, as they saw it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "trace"
        self._gate = folder / "gate"
        self.payload = {"trace": str(self._file), "until": str(self._gate)}

    def open_gate(self) -> None:
        """Let the jobs end that hold."""
        self._gate.touch()

    @property
    def lines(self) -> list[list[str]]:
        """Return id, event, process and time of each event."""
        text = self._file.read_text() if self._file.exists() else ""
        return [line.split() for line in text.splitlines()]

    def count(self) -> Counter[str]:
        """Return how often each event came about."""
        return Counter(event for _, event, _, _ in self.lines)


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """The trace that handlers leave, and the gate at which they wait."""
    return Trace(tmp_path)


@pytest.fixture
def pgbouncer(db: str, tmp_path: Path) -> Iterator[str]:
    """The URL of the test's database behind PgBouncer in transaction mode, with two sessions."""
    with pooler(db, tmp_path) as url:
        yield url
