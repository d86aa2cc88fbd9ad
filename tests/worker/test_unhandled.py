"""Jobs of a task that some workers have a handler for and others do not: a rolling deploy."""

import time
from collections.abc import Callable

from psycopg import Connection

from tests.waiting import wait_until
from tests.worker.conftest import Trace, WorkerProcess

StartWorker = Callable[..., WorkerProcess]
NEW = ("--tasks", "tests.worker.new_handlers")


def test_a_new_worker_runs_at_once_what_the_old_one_had_no_handler_for(
    start_worker: StartWorker, enqueue: Callable[..., int], job: Callable, trace: Trace
) -> None:
    start_worker()
    ids = []
    for _ in range(6):  # in batches of their own
        ids += [enqueue("new", trace.payload), enqueue("new", trace.payload)]
        wait_until(lambda: job(ids[-1])["last_error"])  # noqa: B023

    began = time.monotonic()
    start_worker(*NEW)
    wait_until(lambda: trace.count()["start"] == 12, timeout=20)

    assert time.monotonic() - began < 4.5  # no delay of 5 seconds was waited for


def test_jobs_that_are_put_off_one_by_one_do_not_wait_longer_and_longer(
    conn: Connection, start_worker: StartWorker, enqueue: Callable[..., int], trace: Trace
) -> None:
    worker = start_worker()
    for number in range(8):
        enqueue("new", trace.payload)
        wait_until(lambda: put_off(conn) == number + 1)  # noqa: B023

    (longest,) = conn.execute(
        "select max(extract(epoch from next_run_at - finished_at)) from rota.job_executions"
    ).fetchone()
    assert longest < 20
    assert len(worker.logged("no handler for this task, its jobs are handed back")) == 1


def put_off(conn: Connection) -> int:
    return conn.execute(
        "select count(*) from rota.live_jobs where last_error like '%has no handler%'"
    ).fetchone()[0]
