"""Who is measured: how each is installed, started, and asked what is left to do."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

ROOT = Path(__file__).resolve().parent.parent
NODE_MODULES = ROOT / "bench" / "node_modules"
PATIENCE = 300.0  # seconds for an answer
KEY_NAMES = [f"key {number}" for number in range(20)]
KEY_LIMIT = 2
KEY_ROOM = 10  # jobs at once in one of its workers
LAST_WORDS = 15.0  # seconds for a process to end

Options = dict[str, Any]


class Failed(Exception):  # noqa: N818
    """A contestant's process ended, or did not answer."""


class Process:
    """A contestant's process; what it says comes in JSON lines."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | (env or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.series: list[tuple[int, int]] = []  # (monotonic ns, handlers begun)
        self.started: dict[int, int] = {}  # number of a job: monotonic ns
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        """Wait until it says that it is ready."""
        self._answer()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def count(self) -> int:
        """How many handlers have begun."""
        return self.series[-1][1] if self.series else 0

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have a producer do something; return its answer."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def memory(self) -> int:
        """Return the resident memory of the process, in bytes."""
        return psutil.Process(self._process.pid).memory_info().rss

    def cpu(self) -> float:
        """Return the seconds of CPU that the process has used."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def kill(self) -> None:
        """End the process at once: its jobs would take longer than we wait."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the process, gently at first."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(LAST_WORDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout
        for text in self._process.stdout:
            line = json.loads(text)
            if "n" in line:
                self.series.append((line["t"], line["n"]))
                self.started.update(line["started"])
            else:
                self._answers.put(line)
        self._answers.put(None)

    def _answer(self) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=PATIENCE)
        except queue.Empty:
            answer = None
        if answer is None:
            self.stop()
            tail = self._log.read_text(errors="replace").splitlines()[-10:]
            raise Failed("\n".join(["no answer", *tail]))
        return answer


@dataclass(frozen=True)
class Contestant:
    """A job queue, with the configurations in which it is measured.

    Attributes:
        name: as people know it.
        package: name and ecosystem, for the version.
        left: SQL that counts the jobs that are not finished.
        workers: options of a worker by configuration: ``default``, and the fastest that its
            documentation suggests.
        latency: options of a worker for the quickest start, where they differ from the default.
        busy: options of a worker whose slots a few long jobs fill, and how many they are.
        batch: jobs in one call of a bulk.
        slow: configurations that need fewer jobs to be measured.
        keyed: options of a worker for jobs of ``KEY_NAMES``, of each of which ``KEY_LIMIT`` may run
            at once in all workers, by ``at_once``: SQL that counts what runs of each key.
    """

    name: str
    program: tuple[str, ...]
    package: str
    left: str
    workers: dict[str, Options]
    latency: Options
    busy: tuple[Options, int]
    batch: int = 10_000
    slow: frozenset[str] = frozenset({"default"})
    work: tuple[str, ...] = field(default=())
    keyed: Options | None = None
    at_once: str = ""

    @cached_property
    def available(self) -> bool:
        """Whether it is installed here."""
        try:
            return bool(self.version)
        except Exception:
            return False

    @cached_property
    def version(self) -> str:
        """Return the installed version."""
        if self.program[0] == "node":
            return json.loads((NODE_MODULES / self.package / "package.json").read_text())["version"]
        return version(self.package) if self.package else "this checkout"

    def install(self, url: str, options: Options, log: Path) -> None:
        """Create its tables in a new database."""
        with log.open("ab") as errors:
            subprocess.run(
                [*self.program, "install", url, json.dumps(options)],
                cwd=ROOT,
                check=True,
                stdout=errors,
                stderr=errors,
            )

    def producer(self, url: str, options: Options, log: Path) -> Process:
        """Start a process that enqueues."""
        return Process([*self.program, "produce", url, json.dumps(options)], log)

    def worker(self, url: str, options: Options, log: Path) -> Process:
        """Start a worker."""
        if not self.work:
            return Process([*self.program, "work", url, json.dumps(options)], log)
        flags = [f"--{name}={value}" for name, value in options.items()]
        return Process([*self.work, *flags], log, {"DATABASE_URL": url})


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module)


def _node(file: str) -> tuple[str, ...]:
    return ("node", str(ROOT / "bench" / "peers" / file))


ROTA = Contestant(
    name="Rota",
    program=_python("bench.peers.rota"),
    package="",
    left="select count(*) from rota.live_jobs",
    workers={"default": {}, "best": {"concurrency": 2}},
    latency={},
    busy=({"concurrency": 4}, 4),
    slow=frozenset(),
    work=(*_python("worker"), "--tasks=bench.peers.rota_tasks", "--log-level=WARNING"),
    keyed={"concurrency": KEY_ROOM},
    at_once="select count(*) from rota.live_jobs where state = 'RUNNING' group by key",
)

PEERS = (
    Contestant(
        name="graphile-worker",
        program=_node("graphile_worker.mjs"),
        package="graphile-worker",
        left="select count(*) from graphile_worker.jobs",
        workers={
            "default": {},
            "best": {
                "concurrentJobs": 24,
                "maxPoolSize": 26,
                "localQueue": {"size": 500},
                "completeJobBatchDelay": 0,
                "failJobBatchDelay": 0,
            },
            "local queue of 2,000": {
                "concurrentJobs": 24,
                "maxPoolSize": 26,
                "localQueue": {"size": 2000},
                "completeJobBatchDelay": 0,
                "failJobBatchDelay": 0,
            },
        },
        latency={"concurrency": 4},
        busy=({"concurrency": 4}, 4),
    ),
    Contestant(
        name="pg-boss",
        program=_node("pg_boss.mjs"),
        package="pg-boss",
        left="select count(*) from pgboss.job where name = 'noop' and state < 'completed'",
        workers={
            "default": {},
            "best": {"batchSize": 1000, "burstWhenBatchFull": True, "pollingIntervalSeconds": 0.5},
        },
        latency={"notify": True, "batchSize": 100, "burstWhenBatchFull": True},
        busy=({"notify": True, "batchSize": 4}, 4),
        keyed={
            "groupConcurrency": KEY_LIMIT,
            "localConcurrency": KEY_ROOM,
            "burstWhenReadyExceeds": 1,
            "pollingIntervalSeconds": 0.5,
        },
        at_once="select count(*) from pgboss.job where state = 'active' group by group_id",
    ),
    Contestant(
        name="pgqueuer",
        program=_python("bench.peers.pgqueuer"),
        package="pgqueuer",
        left="select count(*) from pgqueuer",
        workers={"default": {}, "best": {"batch_size": 1000, "tuned": True}},
        latency={},
        busy=({"batch_size": 2, "max_concurrent_tasks": 4}, 4),
        keyed={
            "keys": KEY_NAMES,
            "limit": KEY_LIMIT,
            "batch_size": KEY_ROOM // 2,
            "max_concurrent_tasks": KEY_ROOM,
        },
        at_once="select count(*) from pgqueuer where status = 'picked' group by entrypoint",
    ),
    Contestant(
        name="procrastinate",
        program=_python("bench.peers.procrastinate"),
        package="procrastinate",
        left="select count(*) from procrastinate_jobs where status in ('todo', 'doing')",
        workers={"default": {}, "best": {"concurrency": 20}},
        latency={},
        busy=({"concurrency": 4}, 4),
        batch=1000,
        slow=frozenset({"default", "best"}),
    ),
)
