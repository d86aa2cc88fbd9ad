"""Whatever a handler or its module does, short of killing the process, the worker goes on."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.waiting import wait_until
from tests.worker import hostile
from tests.worker.conftest import Trace, WorkerProcess

StartWorker = Callable[..., WorkerProcess]
ReadJob = Callable[[int], dict[str, Any]]

HOSTILE = ("--tasks", "tests.worker.hostile")
PROCESS_LEVEL = ("silence", "stop_clocks", "exit_thread", "exhaust_threads")


@pytest.mark.parametrize("name", ["do", "async_do"])
def test_what_a_handler_leaves_fails_its_attempt_and_nothing_else(
    name: str, start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob, settled: Any
) -> None:
    worker = start_worker(*HOSTILE, "--concurrency", "2", "--poll", "0.1")

    deeds = {deed: enqueue(name, deed, max_retries=0) for deed in hostile.DEEDS}
    settled()
    good = enqueue("echo", "still here")
    settled()

    for deed, (_, expected) in hostile.DEEDS.items():
        ended = job(deeds[deed])
        assert (ended["state"], ended["attempt"]) == ("FAILED", 1), deed
        assert re.search(expected, ended["last_error"]), (deed, ended["last_error"])
    assert job(good)["result"] == "still here"
    assert len(worker.logged("started")) == 1
    assert worker.stop() == 0
    assert not [line for line in worker.lines if line["level"] == "CRITICAL"]


@pytest.mark.parametrize("name", PROCESS_LEVEL)
def test_what_a_handler_does_to_the_process_ends_no_worker(
    name: str, start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob, settled: Any
) -> None:
    worker = start_worker(*HOSTILE, "--concurrency", "4", "--poll", "0.1", "--lease", "2")

    evil = enqueue(name, max_retries=0)
    settled()
    time.sleep(1.2)  # the watch has looked
    after = [enqueue("nap_a_little", number) for number in range(8)]
    after += [enqueue("async_nap_a_little", number) for number in range(8)]
    settled()

    assert job(evil)["state"] == "COMPLETED"
    assert [job(job_id)["result"] for job_id in after] == [*range(8), *range(8)]
    assert worker.stop() == 0
    assert worker.logged("stopped")


@pytest.mark.parametrize("sockets", [0, 40])
def test_a_handler_that_closes_all_descriptors_costs_connections_and_nothing_else(
    sockets: int,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    settled: Any,
    trace: Trace,
) -> None:
    worker = start_worker(*HOSTILE, "--concurrency", "4", "--poll", "0.1", "--lease", "3")
    running = enqueue("hold", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)

    evil = enqueue("close_descriptors", {"sockets": sockets}, max_retries=0)
    wait_until(lambda: job(evil)["state"] == "COMPLETED")
    after = [enqueue("echo", number) for number in range(5)]
    wait_until(lambda: all(job(job_id)["state"] == "COMPLETED" for job_id in after))
    time.sleep(4)  # more than a lease
    trace.open_gate()
    settled()

    assert (job(running)["state"], job(running)["attempt"]) == ("COMPLETED", 1)
    assert worker.stop() == 0


def test_an_event_loop_that_a_handler_broke_is_replaced(
    start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob, settled: Any
) -> None:
    worker = start_worker(*HOSTILE, "--concurrency", "4", "--poll", "0.1", "--lease", "3")

    evil = enqueue("close_loop", {}, max_retries=0)
    settled()
    after = [enqueue("async_nap_a_little", number) for number in range(8)]
    settled()

    assert job(evil)["state"] == "FAILED"
    assert job(evil)["last_error"] == "the event loop broke while it ran"
    assert [job(job_id)["state"] for job_id in after] == ["COMPLETED"] * 8
    assert worker.stop() == 0


def test_a_forked_child_is_no_worker(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    settled: Any,
    trace: Trace,
) -> None:
    worker = start_worker(*HOSTILE, "--concurrency", "2", "--poll", "0.1")
    sessions = (
        "select pid from pg_stat_activity"
        " where application_name like 'rota worker%' and datname = current_database()"
    )
    enqueue("echo")
    settled()
    before = set(conn.execute(sessions).fetchall())

    waits = enqueue("fork_and_wait", trace.payload)
    exits = [enqueue("fork_and_exit", {"code": code}) for code in (0, 7)]
    stays = enqueue("fork_and_stay")
    pool = enqueue("multiprocess")
    settled()
    good = enqueue("echo", "still here")
    settled()

    assert job(waits)["result"] == -signal.SIGTERM
    assert [job(job_id)["result"] for job_id in exits] == [0, 7]
    assert job(stays)["last_error"] is None
    assert len(job(stays)["result"]) == 2  # of the event loop; none leads to the database
    assert job(pool)["result"] == 55
    assert job(good)["state"] == "COMPLETED"
    assert set(conn.execute(sessions).fetchall()) == before
    assert worker.stop() == 0


def test_a_handler_that_asks_the_process_to_stop_is_obeyed_and_finished(
    start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob
) -> None:
    worker = start_worker(*HOSTILE)

    asked = enqueue("terminate")

    assert worker.wait() == 0
    assert job(asked)["state"] == "COMPLETED"
    assert worker.logged("stopped")


BAD_MODULES = {
    "exits": ("exit()", "tried to end the process"),
    "exits with a code": ("import sys; sys.exit(7)", "SystemExit: 7"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "exits when read": (
        "import sys\nclass E(Exception):\n    def __str__(self): sys.exit(1)\nraise E",
        "E, whose text cannot be read",
    ),
    "has no handler": ("x = 1", "there is no handler"),
}


@pytest.mark.parametrize("name", BAD_MODULES)
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_module_that_ends_the_process_cannot_start_it(
    name: str,
    processes: str,
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, expected = BAD_MODULES[name]
    write_module(tmp_path, monkeypatch, code)

    worker = start_worker("--tasks", "bad_module", "--processes", processes, ready=False, tasks=())

    assert worker.wait() == 2
    errors = worker.logged("cannot start")
    assert errors and all(expected in line["error"] for line in errors)
    assert name == "has no handler" or all("bad_module" in line["error"] for line in errors)


ROUGH_MODULES = {
    "signals": (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])",
        "the action on SIGTERM",
    ),
    "dictConfig": (
        "import logging.config\n"
        "logging.config.dictConfig({'version': 1, 'root': {'handlers': []}})\n"
        "logging.disable(logging.CRITICAL)",
        "Rota's loggers",
    ),
    "interpreter": (
        "import sys\nsys.setswitchinterval(5)\nsys.setrecursionlimit(120)",
        "the switch interval",
    ),
    "surroundings": (
        "import gc, locale, os, socket, sys, threading, time\n"
        "os.chdir('/')\nos.umask(0o777)\nsocket.setdefaulttimeout(0.001)\ngc.disable()\n"
        "sys.stderr.close()\nsys.stderr = sys.stdout = None\nos.close(2)\n"
        "threading.Thread(target=time.sleep, args=[3600]).start()\n"
        "threading.excepthook = sys.excepthook = sys.exit\n"
        "time.time = time.monotonic = time.sleep = lambda *_: 1 / 0\n",
        None,
    ),
    "fork": ("import os\nos.fork()", None),
    "alarm": (
        "import signal\n"
        "def fail(*_): raise SystemExit(9)\n"
        "signal.signal(signal.SIGALRM, fail)\nsignal.setitimer(signal.ITIMER_REAL, 2, 0.1)",
        None,
    ),
}


@pytest.mark.parametrize("name", ROUGH_MODULES)
def test_a_module_that_changes_the_process_changes_no_worker(
    name: str,
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    trace: Trace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, changed = ROUGH_MODULES[name]
    write_module(tmp_path, monkeypatch, code)
    worker = start_worker("--tasks", "bad_module", "--grace", "20", "--lease", "3")
    job_id = enqueue("hold", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)
    time.sleep(4)  # more than a lease

    worker.send(signal.SIGTERM)
    wait_until(lambda: worker.logged("stopping"))
    trace.open_gate()

    assert worker.wait() == 0
    assert (job(job_id)["state"], job(job_id)["attempt"]) == ("COMPLETED", 1)
    assert len(worker.logged("started")) == 1
    assert worker.logged("stopped")
    lines = worker.logged("a module changed what the worker relies on, it was put back")
    assert [line["module"] for line in lines] == (["bad_module"] if changed else [])
    assert not changed or changed in lines[0]["changed"]
    assert conn.execute("select count(*) from rota.worker_status").fetchone() == (1,)


def write_module(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    (folder / "bad_module.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_full_standard_error_holds_up_nobody(
    conn: Connection, start_worker: StartWorker, settled: Any, job: ReadJob
) -> None:
    worker = start_worker("--log-level", "DEBUG", "--lease", "2", reads=False, ready=False)

    jobs = [{"task": "bad_error", "payload": "nul", "max_retries": 0} for _ in range(2000)]
    ids = [row["job_id"] for row in call(conn, "enqueue_jobs", jobs=Jsonb(jobs))]
    settled(timeout=60)
    slow = call(conn, "enqueue_job", task="sleep", payload=Jsonb({"seconds": 4}))[0]["job_id"]
    settled()

    assert {job(job_id)["state"] for job_id in ids[::100]} == {"FAILED"}
    assert (job(slow)["state"], job(slow)["attempt"]) == ("COMPLETED", 1)
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
