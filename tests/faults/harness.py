"""What every fault needs: a server of its own, producers, a fleet of workers, and the verdict.

A ``House`` is one database with all who use it. Its folder keeps the history of the run:
``python -m tests.history.check FOLDER`` decides it again.
"""

import contextlib
import functools
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rota.db.embedded import Cluster, ClusterError
from rota.db.gateway import call
from tests.functions.views import ATTEMPTS
from tests.history.check import Demands, Report, Saved, check
from tests.history.record import Appender, History, recording_cursor
from tests.waiting import wait_until

DROP_SESSIONS = """
    select {function}(a.pid)
    from pg_stat_activity as a
    where a.datname = current_database() and a.pid <> pg_backend_pid()
"""

BOOKS = """
    create table accounts (name text primary key, balance integer not null);

    insert into accounts values ('left', 0), ('right', 0);

    create table ledger (job_id bigint not null, token uuid not null)
"""

REPOSITORY = Path(__file__).parents[2]
LONG = os.environ.get("ROTA_FAULTS") == "all"  # make faults
only_long = pytest.mark.skipif(not LONG, reason="left to make faults")
LEASE = 2.0  # seconds
DRAINED_WITHIN = 90.0  # seconds after the last fault, on a busy machine

JOBS = """
    select
        j.id, j.payload ->> 'key' as key, j.state, l.token::text, j.run, j.queue, j.priority,
        j.max_retries, j.payload ? 'gives_up' as gave_up, j.schedule_type,
        extract(epoch from j.scheduled_for)::float8 as scheduled_for,
        w.depends_on, w.if_parent_fails, w.ended_by,
        (
            select jsonb_agg(
                s.result || jsonb_build_object('at', extract(epoch from s.recorded_at)::float8)
            )
            from rota.job_steps as s
            where s.job_id = j.id and s.result ? 'event'
        ) as awaited
    from rota.jobs as j
    left join rota.live_jobs as l on l.id = j.id
    left join rota.workflow_jobs as w on w.job_id = j.id
"""

EXECUTIONS = f"""
    select
        e.job_id, e.token::text, e.run, e.attempt, e.outcome, e.job_state,
        extract(epoch from e.started_at)::float8 as started_at,
        extract(epoch from e.finished_at)::float8 as finished_at
    from ({ATTEMPTS}) as e
"""  # noqa: S608


class Worker:
    """One worker process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


class House:
    """One database, its producers and its workers.

    Args:
        cluster: the server, which faults may stop, kill and start again.
        dbname: a database with Rota on it.
        folder: where the history goes.
        seed: decides what is random here.
    """

    def __init__(self, cluster: Cluster, dbname: str, folder: Path, seed: int) -> None:
        self.cluster = cluster
        self.dbname = dbname
        self.folder = folder
        self.seed = seed
        self.random = random.Random(seed)
        self.workers: list[Worker] = []
        self.history = History(folder / "history.jsonl")
        self._cursor = recording_cursor(self.history)
        self._url = cluster.url(dbname)
        self._keys = itertools.count(1)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.execute(
            "select rota.configure_queue('default', backoff_base => '0.2 s', backoff_cap => '1 s')"
        )

    @property
    def url(self) -> str:
        """The database, by the straight way, also while its server is down."""
        with contextlib.suppress(ClusterError):
            self._url = self.cluster.url(self.dbname)
        return self._url

    # -- asking --------------------------------------------------------------------------------

    def execute(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Run a statement on a connection of its own."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            cursor = conn.execute(query, arguments)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *arguments: Any) -> Any:
        """Return the one value of a query's one row."""
        return self.execute(query, *arguments)[0][0]

    def outcomes(self, task: str = "work", queue: str = "default") -> list[list[str]]:
        """Return for each job, in the order of ids, how its attempts ended."""
        rows = self.execute(
            """
            select
                array_agg(e.outcome::text order by e.finished_at)
                    filter (where e.job_id is not null)
            from rota.jobs as j
            left join rota.job_executions as e on e.job_id = j.id
            where j.task = %s and j.queue = %s
            group by j.id
            order by j.id
            """,
            task,
            queue,
        )
        return [row[0] or [] for row in rows]

    def effects(self, phase: str) -> int:
        """Return how many effects of this phase handlers have left so far."""
        path = self.folder / "effects.jsonl"
        return path.read_text().count(f'"phase": "{phase}"') if path.exists() else 0

    # -- producing -----------------------------------------------------------------------------

    def produce(
        self,
        count: int,
        url: str | None = None,
        pause: float = 0,
        until: threading.Event | None = None,
        conn: psycopg.Connection[Any] | None = None,
        **job: Any,
    ) -> None:
        """Enqueue jobs, each in a transaction of its own, reconnecting as often as it takes.

        A job whose enqueue was refused or is unknown is not tried again.
        """
        until = until or threading.Event()
        payload = job.pop("payload", {})
        for _ in range(count):
            while (conn is None or conn.closed) and not until.is_set():
                try:
                    conn = self.producer(url)
                except psycopg.OperationalError:
                    time.sleep(0.1)
            if until.is_set():
                break
            arguments = {"task": "work", "max_retries": 20, **job}
            arguments["payload"] = Jsonb({"key": f"{self.seed}-{next(self._keys)}", **payload})
            try:
                call(conn, "enqueue_job", **arguments)
            except psycopg.Error as error:
                if (error.sqlstate or "08").startswith(("08", "57P")):
                    conn.close()
                else:
                    time.sleep(0.1)
            if pause:
                time.sleep(pause)
        if conn:
            conn.close()

    def weave(self, count: int = 1, url: str | None = None) -> None:
        """Enqueue workflows, each of ten jobs of which some fail for good and take others down.

        Whether one whose enqueue was cut short is there or not is not looked for.
        """
        for _ in range(count):
            jobs = [
                {
                    "task": "work",
                    "node": str(place),
                    "depends_on": [
                        str(parent) for parent in self.random.sample(range(place), min(place, 2))
                    ],
                    "if_parent_fails": self.random.choice(["cancel", "run"]),
                    "payload": {"seconds": 0.05, "fail": 0.15},
                    "max_retries": self.random.choice([0, 20]),
                }
                for place in range(10)
            ]
            with contextlib.suppress(psycopg.Error), self.producer(url) as conn:
                call(conn, "enqueue_workflow", jobs=Jsonb(jobs))

    def produce_in_steps(
        self,
        count: int,
        url: str | None = None,
        pause: float = 0,
        until: threading.Event | None = None,
    ) -> None:
        """Enqueue jobs that each sleep and await an event, and emit it, some before the job."""
        until = until or threading.Event()
        for _ in range(count):
            event = f"{self.seed}-{next(self._keys)}"
            payload = {"event": event, "seconds": self.random.uniform(0, 0.5)}
            early = self.random.random() < 0.3
            if early:
                self.emit(event, url, until)
            self.produce(1, url, pause, until, task="in_steps", payload=payload)
            if not early:
                self.emit(event, url, until)

    def emit(
        self, event: str, url: str | None = None, until: threading.Event | None = None
    ) -> None:
        """Emit an event as often as it takes until one was acknowledged, each with a payload."""
        for number in itertools.count(1):
            if until and until.is_set():
                return
            try:
                with self.producer(url) as conn:
                    call(conn, "emit_event", event=event, payload=Jsonb(number))
            except psycopg.Error:
                time.sleep(0.1)
            else:
                return

    def producer(self, url: str | None = None) -> psycopg.Connection[Any]:
        """Open a connection whose calls go on record."""
        return psycopg.connect(
            url or self.url,
            autocommit=True,
            cursor_factory=self._cursor,
            connect_timeout=5,
            tcp_user_timeout=3000,
        )

    def producing(self, count: int, **job: Any) -> contextlib.AbstractContextManager[None]:
        """Enqueue jobs in the background of a block, which is left when all are enqueued."""
        return self._meanwhile(functools.partial(self.produce, count, **job))

    def producing_in_steps(
        self, count: int, **options: Any
    ) -> contextlib.AbstractContextManager[None]:
        """Enqueue jobs in steps, and emit what they await, in the background of a block."""
        return self._meanwhile(functools.partial(self.produce_in_steps, count, **options))

    @contextlib.contextmanager
    def _meanwhile(self, produce: Callable[..., None]) -> Iterator[None]:
        with ThreadPoolExecutor(1) as pool:
            given_up = threading.Event()
            producer = pool.submit(produce, until=given_up)
            try:
                yield
                producer.result(DRAINED_WITHIN)
            finally:
                given_up.set()

    # -- workers -------------------------------------------------------------------------------

    def worker(
        self,
        url: str | None = None,
        die_at: str | None = None,
        lease: float = LEASE,
        concurrency: int = 4,
        poll: float = 0.2,
        extra: tuple[str, ...] = (),
    ) -> Worker:
        """Start a worker."""
        number = len(self.workers) + 1
        log = self.folder / f"worker-{number}.log"
        environment = {
            **os.environ,
            "DATABASE_URL": url or self.url,
            "ROTA_HISTORY": str(self.folder / "history.jsonl"),
            "ROTA_EFFECTS": str(self.folder / "effects.jsonl"),
            "ROTA_DIE_AT": die_at or "",
        }
        arguments = ["--tasks", "tests.faults.tasks", "--lease", str(lease)]
        arguments += ["--concurrency", str(concurrency), "--poll", str(poll), "--grace", "5"]
        process = self.run(["-m", "tests.faults.worker", *arguments, *extra], environment, log)
        worker = Worker(process, log)
        self.workers.append(worker)
        return worker

    def run(
        self, arguments: list[str], environment: dict[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a Python program of the project."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=REPOSITORY,
                env=environment,
                stdout=output,
                stderr=output,
            )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """End every process that is left."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    @contextlib.contextmanager
    def fleet(self, size: int, **options: Any) -> Iterator[None]:
        """Keep so many workers alive during the block, as a supervisor does."""
        ended = threading.Event()

        def supervise() -> None:
            fleet = [self.worker(**options) for _ in range(size)]
            while not ended.wait(0.05):
                for number, worker in enumerate(fleet):
                    if not worker.alive:
                        fleet[number] = self.worker(**options)

        with ThreadPoolExecutor(1) as pool:
            supervisor = pool.submit(supervise)
            try:
                yield
            finally:
                ended.set()
            supervisor.result(DRAINED_WITHIN)

    # -- faults --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def fault(self, kind: str, target: int | str, clock: bool = False) -> Iterator[None]:
        """Put a fault on record; it lasts as long as the block.

        Args:
            kind: what it is.
            target: whom it befalls: a process id, ``server`` or ``network``.
            clock: whether it moves the server's clock.
        """
        name = self.history.invoke("fault", kind=kind, target=target, clock=clock)
        yield
        self.history.answer(name, "fault", "ok")

    def kill(self, worker: Worker) -> None:
        """Kill a worker as the system does when memory is short."""
        with self.fault("worker SIGKILL", worker.pid):
            worker.process.kill()
            worker.process.wait()

    @contextlib.contextmanager
    def stopped(self, worker: Worker) -> Iterator[None]:
        """Have a worker stand still during the block."""
        with self.fault("worker SIGSTOP", worker.pid):
            worker.process.send_signal(signal.SIGSTOP)
            yield
            worker.process.send_signal(signal.SIGCONT)

    def crash(self, mode: str = "kill") -> None:
        """Crash the server and start it again."""
        with self.fault(f"server {mode}", "server"):
            if mode == "kill":
                self.cluster.kill()
            else:
                self.cluster.stop(mode)
            self.cluster.start()

    # -- the verdict ---------------------------------------------------------------------------

    def live(self) -> int:
        """Return how many ordinary jobs have not ended; all of them while nobody can say."""
        try:
            return self.value(
                "select count(*) from rota.live_jobs where schedule_type = 'ONE_TIME'"
            )
        except psycopg.Error:
            return sys.maxsize

    def drain(self, timeout: float = DRAINED_WITHIN) -> None:
        """Wait until every ordinary job has ended; recover meanwhile, as any session may."""

        def drained() -> bool:
            assert not any(worker.process.poll() == 2 for worker in self.workers), "cannot start"
            with contextlib.suppress(psycopg.Error):
                self.execute("select rota.recover_jobs()")
            return self.live() == 0

        wait_until(drained, timeout)

    def stop_workers(self) -> None:
        """Stop the workers gently; each must end well."""
        alive = [worker for worker in self.workers if worker.alive]
        for worker in alive:
            worker.process.terminate()
        for worker in alive:
            code = worker.process.wait(30)
            log = worker.log.read_text()
            assert code == 0 or (code == -signal.SIGTERM and "started" not in log), log[-3000:]

    def decide(self, **demands: Any) -> Report:
        """Drain, stop the workers, save the run, and hold it to every promise."""
        self.drain()
        self.stop_workers()
        return self.judge(**demands)

    def judge(self, **demands: Any) -> Report:
        """Save the run, and hold it to every promise."""
        needed = Demands(**demands)
        (self.folder / "demands.json").write_text(json.dumps(asdict(needed)))
        (self.folder / "seed").write_text(f"{self.seed}\n")
        with psycopg.connect(self.url, row_factory=psycopg.rows.dict_row) as conn:
            for name, query in (("jobs", JOBS), ("executions", EXECUTIONS)):
                rows = conn.execute(query).fetchall()
                text = "".join(json.dumps(row) + "\n" for row in rows)
                (self.folder / f"{name}.jsonl").write_text(text)
            broken = conn.execute("select * from rota.check_invariants()").fetchall()
        report = check(Saved.load(self.folder), needed)
        if record := os.environ.get("ROTA_RECORD"):
            test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
            Appender(Path(record)).write(test=test, figures=vars(report.figures))
        assert broken == [], broken
        assert report.verdicts == [], (
            f"seed {self.seed}, history in {self.folder}: {report.verdicts[:5]}"
        )
        return report


def assert_balanced(bank: House, jobs: int) -> None:
    """Each job must have moved its unit once, under the token that finished it."""
    balances = dict(bank.execute("select name, balance from accounts"))
    assert balances == {"left": -jobs, "right": jobs}
    assert bank.execute("select count(*), count(distinct job_id) from ledger") == [(jobs, jobs)]
    assert (
        bank.execute(
            f"""
            select l.job_id from ledger as l
            where not exists (
                select from ({ATTEMPTS}) as e
                where e.job_id = l.job_id and e.token = l.token and e.outcome = 'SUCCEEDED'
            )
            """  # noqa: S608
        )
        == []
    )
