"""Coroutines: many at one time, stopped for each reason once, and settled as threads are."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psycopg import Connection

from rota.db.gateway import call
from tests.waiting import wait_until
from tests.worker import handlers
from tests.worker.conftest import Trace, WorkerProcess, take_back
from tests.worker.test_faults import lease_has_run_out

StartWorker = Callable[..., WorkerProcess]
ReadJob = Callable[[int], dict[str, Any]]


def most_at_one_time(trace: Trace) -> int:
    """Return how many handlers ran at one time, at most."""
    running = most = 0
    for _, event, _, _ in sorted(trace.lines, key=lambda line: float(line[3])):
        running += 1 if event == "start" else -1
        most = max(most, running)
    return most


def test_many_coroutines_wait_at_one_time_and_cost_no_threads(
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    trace: Trace,
    settled: Callable,
) -> None:
    ids = [enqueue("async_hold", trace.payload) for _ in range(200)]

    worker = start_worker("--concurrency", "200")
    wait_until(lambda: trace.count()["start"] == 200)
    (pid,) = {pid for _, _, pid, _ in trace.lines}
    threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    trace.open_gate()
    settled()

    assert threads < 12
    assert [job(job_id)["result"] for job_id in ids] == ["held"] * 200
    assert worker.stop() == 0


def test_threads_and_coroutines_share_the_limit(
    start_worker: StartWorker, enqueue: Callable[..., int], trace: Trace, settled: Callable
) -> None:
    for _ in range(8):
        enqueue("async_hold", trace.payload)
        enqueue("hold", trace.payload)

    start_worker("--concurrency", "4")
    wait_until(lambda: trace.count()["start"] == 4)
    trace.open_gate()
    settled()

    assert trace.count() == {"start": 16, "end": 16}
    assert most_at_one_time(trace) == 4


def test_a_coroutine_that_overruns_its_timeout_is_cancelled_and_leaves_its_place(
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    start_worker("--concurrency", "1")

    slow = enqueue("async_hold", trace.payload, timeout="300 milliseconds", max_retries=0)
    next_one = enqueue("echo")
    settled()

    assert outcomes(slow) == ["TIMED_OUT"]
    assert job(slow)["last_error"] == "timed out after 0.3 seconds"
    assert trace.count() == {"start": 1, "cancelled": 1}
    assert job(next_one)["state"] == "COMPLETED"


def test_a_coroutine_is_cancelled_once_for_each_reason_and_keeps_its_place_until_it_ends(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    worker = start_worker("--lease", "1", "--concurrency", "1")
    stubborn = enqueue("async_stubborn", trace.payload, timeout="3 seconds")
    wait_until(lambda: trace.count()["start"])

    call(conn, "cancel_job", job_id=stubborn)
    wait_until(lambda: job(stubborn)["state"] == "CANCELLED")  # by its timeout
    wait_until(lambda: trace.count()["cancelled"] == 2)
    next_one = enqueue("echo")
    assert len(worker.logged("timed out; its place stays occupied until the handler returns")) == 1
    assert job(next_one)["state"] == "SCHEDULED"
    trace.open_gate()
    settled()

    assert trace.count() == {"start": 1, "cancelled": 2, "end": 1}
    assert job(stubborn)["state"] == "CANCELLED"
    assert len(outcomes(stubborn)) == 1


def test_a_coroutine_that_lost_its_lease_is_cancelled(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    worker = start_worker("--lease", "3")
    job_id = enqueue("async_hold", trace.payload, max_retries=0)
    wait_until(lambda: trace.count()["start"])

    wait_until(lambda: take_back(conn) and outcomes(job_id) == ["LOST"])
    wait_until(lambda: trace.count()["cancelled"] == 1)

    assert outcomes(job_id) == ["LOST"]
    assert worker.logged("the lease was lost, what its handler returns will be discarded")


def test_what_a_coroutine_returns_or_raises_ends_its_attempt_as_in_a_thread(
    start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob, settled: Callable
) -> None:
    names = [*handlers.RESULTS, *handlers.ERRORS, *handlers.ASYNC_ERRORS]
    ids = {name: enqueue("async_bad", name, max_retries=int(name == "retry")) for name in names}

    worker = start_worker()
    settled("RUNNING")
    wait_until(lambda: all(job(job_id)["last_error"] for job_id in ids.values()))
    errors = {name: job(job_id)["last_error"] for name, job_id in ids.items()}

    assert {job(job_id)["state"] for name, job_id in ids.items() if name != "retry"} == {"FAILED"}
    assert job(ids["retry"])["state"] == "SCHEDULED"
    assert errors["fail"] == "no such customer"
    assert "SystemExit: 3" in errors["exit"]
    assert "in async_bad" in errors["exit"]
    assert "crew.py" not in errors["exit"]
    assert "CancelledError: of its own accord" in errors["gives up"]
    assert errors["coroutine"].startswith("the result cannot be stored: ")
    assert "MemoryError" in errors["unreadable reason"]
    wait_until(lambda: worker.logged("a handler's own task tried to end the process"))
    after = enqueue("async_bad", "fail")
    wait_until(lambda: job(after)["state"] == "FAILED")
    assert worker.stop() == 0


def test_a_coroutine_that_blocks_the_loop_loses_no_lease(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    start_worker("--lease", "1")
    ids = [enqueue("async_block", trace.payload) for _ in range(3)]
    wait_until(lambda: trace.count()["start"] == 1)

    ends_at = time.monotonic() + 2.5  # leases
    while time.monotonic() < ends_at:
        assert not lease_has_run_out(conn)
        assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]
    trace.open_gate()
    settled()

    assert [outcomes(job_id) for job_id in ids] == [["SUCCEEDED"]] * 3


def test_a_stop_hands_back_what_waits_for_a_blocked_loop(
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    outcomes: Callable,
    trace: Trace,
) -> None:
    ids = [enqueue("async_block", trace.payload) for _ in range(3)]
    worker = start_worker("--concurrency", "3", "--grace", "0.5")
    wait_until(lambda: trace.count()["start"] == 1)

    assert worker.stop() == 0
    assert trace.count() == {"start": 1}
    assert [outcomes(job_id) for job_id in ids] == [["RELEASED"]] * 3
    assert [job(job_id)["attempt"] for job_id in ids] == [0, 0, 0]


def test_what_a_coroutine_left_running_is_cancelled_at_the_end(
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    worker = start_worker()
    job_id = enqueue("async_leftover", trace.payload)
    settled()

    assert outcomes(job_id) == ["SUCCEEDED"]
    assert trace.count() == {"start": 1}
    assert worker.stop() == 0
    assert trace.count() == {"start": 1, "cancelled": 1}
