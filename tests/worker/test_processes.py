"""Several processes under one supervisor: they share work, are replaced, and end together."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psycopg import Connection

from rota.db.gateway import call
from tests.waiting import wait_until
from tests.worker.conftest import Trace, WorkerProcess

StartWorker = Callable[..., WorkerProcess]

REPLACED = "a process has ended, another is started"


def started(worker: WorkerProcess, count: int) -> list[int]:
    """Wait until so many processes have started; return their ids."""
    wait_until(lambda: len(worker.logged("started")) >= count or worker.ended)
    return [line["pid"] for line in worker.logged("started")]


def status(pid: int) -> list[str]:
    """Return what the system says of a process after its name, or nothing once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [] if fields[0] in "ZX" else fields


def seconds_of_cpu(pid: int) -> float:
    """Return how long a process has computed."""
    return (int(status(pid)[11]) + int(status(pid)[12])) / os.sysconf("SC_CLK_TCK")


def test_handlers_that_burn_cpu_run_in_processes_of_their_own(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    worker = start_worker("--processes", "2", "--concurrency", "1")
    ids = [enqueue("spin", trace.payload) for _ in range(2)]
    wait_until(lambda: trace.count()["start"] == 2)
    pids = {int(pid) for _, _, pid, _ in trace.lines}
    before = {pid: seconds_of_cpu(pid) for pid in pids}

    wait_until(lambda: all(seconds_of_cpu(pid) > before[pid] + 0.3 for pid in pids))
    trace.open_gate()
    settled()

    assert pids == set(started(worker, 2))
    assert [outcomes(job_id) for job_id in ids] == [["SUCCEEDED"]] * 2
    assert worker.stop() == 0
    assert conn.execute("select stopped_at is not null from rota.worker_status").fetchall() == [
        (True,),
        (True,),
    ]
    assert not worker.logged(REPLACED)


def test_a_process_that_was_killed_is_replaced_and_its_job_run_again(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    call(conn, "configure_queue", queue="default", backoff_base="10 milliseconds")
    worker = start_worker("--processes", "2", "--lease", "1", "--poll", "0.1")
    before = started(worker, 2)
    job_id = enqueue("hold", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)
    victim = int(trace.lines[0][2])

    os.kill(victim, signal.SIGKILL)
    after = started(worker, 3)
    wait_until(lambda: call(conn, "recover_jobs") and trace.count()["start"] == 2)
    trace.open_gate()
    settled()

    assert victim in before
    assert after[2] not in before
    assert [line["ended"] for line in worker.logged(REPLACED)] == ["SIGKILL"]
    assert outcomes(job_id) == ["LOST", "SUCCEEDED"]
    assert worker.stop() == 0


def test_a_stop_that_reaches_every_process_twice_is_gentle_still(
    start_worker: StartWorker, enqueue: Callable[..., int], outcomes: Callable, trace: Trace
) -> None:
    worker = start_worker("--processes", "2", "--concurrency", "1", "--grace", "20")
    ids = [enqueue("hold", trace.payload) for _ in range(2)]
    wait_until(lambda: trace.count()["start"] == 2)

    worker.send(signal.SIGTERM)
    wait_until(lambda: len(worker.logged("stopping")) == 2)
    for pid in started(worker, 2):
        os.kill(pid, signal.SIGTERM)
    trace.open_gate()

    assert worker.wait() == 0
    assert [outcomes(job_id) for job_id in ids] == [["SUCCEEDED"]] * 2
    assert worker.lines[-1]["message"] == "all processes have stopped"


def test_a_second_signal_ends_all_processes_at_once(
    start_worker: StartWorker, enqueue: Callable[..., int], trace: Trace
) -> None:
    worker = start_worker("--processes", "2", "--concurrency", "1", "--grace", "60")
    pids = started(worker, 2)
    for _ in range(2):
        enqueue("hold", {**trace.payload, "minds": False})
    wait_until(lambda: trace.count()["start"] == 2)

    worker.send(signal.SIGTERM)
    wait_until(lambda: len(worker.logged("stopping")) == 2)
    worker.send(signal.SIGTERM)

    assert worker.wait(5) == 128 + signal.SIGTERM
    wait_until(lambda: not any(status(pid) for pid in pids))
    assert trace.count() == {"start": 2}


def test_processes_whose_supervisor_died_finish_what_they_run_and_end(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
) -> None:
    worker = start_worker("--processes", "2", "--grace", "20")
    pids = started(worker, 2)
    job_id = enqueue("hold", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)

    worker.kill()
    wait_until(lambda: len(worker.logged("stopping")) == 2)
    trace.open_gate()
    wait_until(lambda: not any(status(pid) for pid in pids))

    assert outcomes(job_id) == ["SUCCEEDED"]
    assert conn.execute(
        "select count(*) from rota.worker_status where stopped_at is null"
    ).fetchone() == (0,)


def test_what_no_process_can_start_with_ends_the_supervisor(
    start_worker: StartWorker,
) -> None:
    worker = start_worker("--processes", "2", "--tasks", "no.such.module", ready=False)

    assert worker.wait() == 2
    errors: list[Any] = [line["error"] for line in worker.logged("cannot start")]
    assert errors
    assert all("no.such.module" in error for error in errors)
