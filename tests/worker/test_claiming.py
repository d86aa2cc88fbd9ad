"""How many jobs a worker takes, and how soon."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.waiting import wait_until
from tests.worker.conftest import Trace, WorkerProcess

StartWorker = Callable[..., WorkerProcess]


def enqueue_many(conn: Connection, jobs: list[dict[str, Any]]) -> None:
    call(conn, "enqueue_jobs", jobs=Jsonb(jobs))


def sleepers(conn: Connection) -> int:
    """Return how many sessions have registered as sleeping workers of this database."""
    row = conn.execute(
        """
        select count(distinct l.pid)
        from pg_locks as l
        join pg_stat_activity as a on a.pid = l.pid
        where l.locktype = 'advisory' and l.mode = 'ShareLock' and l.granted
            and a.datname = current_database()
        """
    ).fetchone()
    return row[0] if row else 0


def test_a_queue_has_a_limit_of_its_own_in_a_process(
    conn: Connection, start_worker: StartWorker, trace: Trace, settled: Callable
) -> None:
    nap = {"task": "nap", "queue": "mail", "payload": {**trace.payload, "seconds": 0.05}}
    enqueue_many(conn, [nap] * 20 + [{"task": "noop"}] * 500)

    start_worker("--queues", "default,mail:2", "--concurrency", "8")
    settled()

    at_one_time = most = 0
    for _, event, _, _ in sorted(trace.lines, key=lambda line: float(line[3])):
        at_one_time += 1 if event == "start" else -1
        most = max(most, at_one_time)
    assert trace.count() == {"start": 20, "end": 20}
    assert most == 2


def test_a_limited_queue_goes_on_without_waiting_for_the_poll(
    conn: Connection, start_worker: StartWorker, trace: Trace, settled: Callable
) -> None:
    nap = {"task": "nap", "queue": "mail", "payload": {**trace.payload, "seconds": 0.01}}
    start_worker("--queues", "default,mail:1", "--poll", "60")

    enqueue_many(conn, [nap] * 20)
    settled(timeout=50)

    assert trace.count() == {"start": 20, "end": 20}


def test_queues_that_were_not_named_are_left_alone(
    start_worker: StartWorker, enqueue: Callable[..., int], job: Callable, settled: Callable
) -> None:
    other = enqueue("echo", queue="other")
    ours = enqueue("echo", queue="ours")
    odd = enqueue("echo", queue='null "{ours}" \\')

    start_worker("--queues", 'ours,null "{ours}" \\')
    wait_until(lambda: job(ours)["state"] == job(odd)["state"] == "COMPLETED")

    assert job(other)["state"] == "SCHEDULED"


def looks_no_more(conn: Connection) -> bool:
    """Tell whether a sleeper's quick looks, the last of which comes after 250 ms, are over."""
    row = conn.execute(
        "select bool_and(state_change < clock_timestamp() - interval '500 ms')"
        " from pg_stat_activity"
        " where application_name = 'rota worker: claim' and datname = current_database()"
    ).fetchone()
    return sleepers(conn) == 1 and row == (True,)


def test_a_sleeping_worker_is_woken_and_not_by_its_poll(
    conn: Connection, start_worker: StartWorker, enqueue: Callable[..., int], trace: Trace
) -> None:
    start_worker("--poll", "60")

    for number in range(1, 6):
        wait_until(lambda: looks_no_more(conn))
        enqueue("mark", trace.payload)
        wait_until(lambda: trace.count()["start"] == number, timeout=20)  # noqa: B023


def test_an_idle_worker_sleeps_until_the_next_job_is_due(
    connect: Callable[..., Connection],
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    trace: Trace,
) -> None:
    for seconds in (2.0, 2.5):
        run_at = datetime.now(UTC) + timedelta(seconds=seconds)
        enqueue("mark", trace.payload, run_at=run_at, queue="mail")

    listener = connect()
    listener.execute("listen rota_jobs")
    start_worker("--poll", "60", "--queues", "default,mail:2")

    wait_until(lambda: trace.count()["start"] == 2, timeout=10)
    assert list(listener.notifies(timeout=0)) == []


@pytest.mark.parametrize(
    "queues", ["default", ",".join(["default", *map("q{}".format, range(30))])]
)
def test_a_sleeping_worker_is_told_of_a_job_that_is_due_before_its_poll(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    trace: Trace,
    queues: str,
) -> None:
    start_worker("--poll", "60", "--queues", queues)
    wait_until(lambda: sleepers(conn) == 1)
    time.sleep(0.5)  # past the quick looks, whose next one would find it

    enqueue("mark", trace.payload, run_at=datetime.now(UTC) + timedelta(seconds=2))

    wait_until(lambda: trace.count()["start"] == 1, timeout=10)


def test_a_retry_runs_when_it_is_due_and_not_at_the_poll(
    conn: Connection, start_worker: StartWorker, enqueue: Callable[..., int], settled: Callable
) -> None:
    call(conn, "configure_queue", queue="default", backoff_base=timedelta(milliseconds=200))
    start_worker("--poll", "60")
    wait_until(lambda: sleepers(conn) == 1)

    enqueue("bad_error", "nul", max_retries=3)  # the third retry is due after the quick looks

    settled(timeout=20)


def test_a_worker_that_cannot_register_as_a_sleeper_polls_and_says_so_once(
    conn: Connection,
    connect: Callable[..., Connection],
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    trace: Trace,
) -> None:
    outsider = connect()
    outsider.execute("select pg_advisory_lock(rota._wake_class(), hashtext('default'))")
    message = (
        "another session holds an advisory lock by which workers say that they sleep:"
        " polling, until it lets go"
    )

    worker = start_worker("--poll", "0.1")
    wait_until(lambda: worker.logged(message))
    for number in range(1, 6):
        enqueue("mark", trace.payload)
        wait_until(lambda: trace.count()["start"] == number)  # noqa: B023

    assert len(worker.logged(message)) == 1
    outsider.execute("select pg_advisory_unlock_all()")
    wait_until(lambda: sleepers(conn) == 1)


def test_without_notifications_the_poll_finds_the_job(
    conn: Connection, start_worker: StartWorker, enqueue: Callable[..., int], trace: Trace
) -> None:
    conn.execute(
        "create or replace function rota.begin_sleep("
        "queues text[], longest interval default '0') returns boolean language plpgsql"
        " as $$ begin raise 'no' using errcode = '25006'; end $$"
    )
    worker = start_worker("--poll", "0.1")
    wait_until(lambda: worker.logged("cannot listen for new jobs, polling"))

    enqueue("mark", trace.payload)

    wait_until(lambda: trace.count()["start"] == 1)
    assert sleepers(conn) == 0


def test_a_long_handler_outlives_its_lease(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    settled: Callable,
) -> None:
    start_worker("--lease", "1")
    start_worker("--lease", "1")

    job_id = enqueue("sleep", {"seconds": 3})
    wait_until(lambda: outcomes(job_id) == ["RUNNING"])
    while outcomes(job_id) == ["RUNNING"]:
        assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]

    assert outcomes(job_id) == ["SUCCEEDED"]


def test_handlers_that_keep_the_interpreter_busy_do_not_stop_the_heartbeat(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    start_worker("--lease", "1")
    ids = [enqueue("spin", trace.payload) for _ in range(4)]
    wait_until(lambda: trace.count()["start"] == 4)

    ends_at = time.monotonic() + 2.5  # leases
    while time.monotonic() < ends_at:
        assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]
    trace.open_gate()
    settled()

    assert [outcomes(job_id) for job_id in ids] == [["SUCCEEDED"]] * 4


def test_quick_jobs_are_claimed_in_batches_and_all_run_once(
    conn: Connection, start_worker: StartWorker, trace: Trace, settled: Callable
) -> None:
    enqueue_many(conn, [{"task": "mark", "payload": trace.payload}] * 5000)

    worker = start_worker()
    settled()

    assert len({job_id for job_id, *_ in trace.lines}) == 5000
    assert trace.count() == {"start": 5000}
    assert conn.execute(
        "select count(*), count(distinct token) < 500 from rota.finished_jobs"
        " where state = 'COMPLETED'"
    ).fetchall() == [(5000, True)]
    assert worker.stop() == 0


def test_jobs_do_not_wait_behind_slow_ones_for_long(
    conn: Connection, start_worker: StartWorker, trace: Trace, settled: Callable
) -> None:
    payload = {**trace.payload, "minds": False}
    quick = [{"task": "noop"}] * 2000
    slow = [{"task": "hold", "payload": payload}] * 2
    more = [{"task": "mark", "payload": trace.payload}] * 100
    enqueue_many(conn, [*quick, *slow, *more])

    start_worker("--concurrency", "2")
    wait_until(lambda: trace.count()["start"] == 2)
    start_worker("--concurrency", "2", "--poll", "0.1")

    wait_until(lambda: trace.count()["start"] == 102)
    trace.open_gate()
    settled()
    assert trace.count() == {"start": 102, "end": 2}


def test_an_idle_worker_makes_at_most_two_statements_a_second(
    conn: Connection, start_worker: StartWorker
) -> None:
    """In the quietest of some stretches: a busy machine may have a stretch of its own troubles."""
    start_worker()
    wait_until(lambda: sleepers(conn) == 1)
    seconds = 4

    def statements() -> int:
        calls = 0
        last = None
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            now = conn.execute(
                "select pid, query_start from pg_stat_activity"
                " where application_name like 'rota worker%' and datname = current_database()"
            ).fetchall()
            if last is not None:
                calls += len(set(now) - set(last))
            last = now
            time.sleep(0.005)
        return calls

    assert any(statements() <= 2 * seconds for _ in range(4))


def test_a_worker_behind_a_pooler_polls(
    db: str, start_worker: StartWorker, enqueue: Callable[..., int], trace: Trace, pgbouncer: str
) -> None:
    worker = start_worker("--poll", "0.1", url=pgbouncer)
    enqueue("mark", trace.payload)
    enqueue("mark", trace.payload)

    wait_until(lambda: trace.count()["start"] == 2)

    message = "behind a connection pooler there are no notifications: polling"
    wait_until(lambda: worker.logged(message))
    assert worker.stop() == 0
    assert len(worker.logged(message)) == 1
    with psycopg.connect(db) as conn:
        assert sleepers(conn) == 0
        assert conn.execute("select backend from rota.workers").fetchall() == [(None,)]
