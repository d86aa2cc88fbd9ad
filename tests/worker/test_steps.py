"""Steps, sleeps, events and jobs that follow, in worker processes."""

import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from rota.worker import steps
from rota.worker.attempt import Attempt
from rota.worker.clerk import Clerk
from rota.worker.clock import clock
from rota.worker.desk import Desk
from rota.worker.job import LeaseLost
from rota.worker.link import Link
from tests.waiting import wait_until
from tests.worker.conftest import Trace, WorkerProcess, take_back

StartWorker = Callable[..., WorkerProcess]
ReadJob = Callable[[int], dict[str, Any]]

WAITS = "select exists (select from rota.event_waits)"


@pytest.mark.parametrize("task", ["in_steps", "async_in_steps"])
def test_a_job_that_sleeps_or_waits_holds_no_place_and_repeats_no_step(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
    task: str,
) -> None:
    worker = start_worker("--concurrency", "1", "--poll", "0.1")
    sleeper = enqueue(task, trace.payload | {"seconds": 1, "event": "paid:7"})
    wait_until(lambda: outcomes(sleeper) == ["RELEASED"])
    other = enqueue("echo", "meanwhile")
    wait_until(lambda: job(other)["state"] == "COMPLETED")
    assert outcomes(sleeper) == ["RELEASED"]
    wait_until(lambda: conn.execute(WAITS).fetchone() == (True,))
    assert job(sleeper)["state"] == "SCHEDULED"
    call(conn, "emit_event", event="paid:7", payload=Jsonb({"sum": 5}))
    settled()

    assert (job(sleeper)["state"], job(sleeper)["result"]) == (
        "COMPLETED", [None, {"sum": 5}, [1, 2]],
    )  # fmt: skip
    assert (outcomes(sleeper), job(sleeper)["attempt"]) == (
        ["RELEASED", "RELEASED", "SUCCEEDED"], 1,
    )  # fmt: skip
    assert trace.count() == {"start": 3, "first": 1, "last": 1}
    assert worker.stop() == 0
    assert not [line for line in worker.lines if line["level"] in ("WARNING", "ERROR")]


def test_a_step_of_an_attempt_that_lost_its_lease_is_not_done(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
) -> None:
    start_worker()
    job_id = enqueue("late_step", trace.payload, max_retries=0)
    wait_until(lambda: trace.count()["start"] == 1)
    wait_until(lambda: take_back(conn) and outcomes(job_id) == ["LOST"])
    trace.open_gate()
    wait_until(lambda: trace.count()["lost"] == 1)

    # The worker may not have heard of it, and then the step is done, and not recorded.
    assert outcomes(job_id) == ["LOST"]
    assert call(conn, "recorded_steps", job_id=job_id) == []


def test_what_a_handler_does_after_it_was_handed_back_is_discarded(
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    worker = start_worker("--concurrency", "1", "--poll", "0.1")
    job_id = enqueue("sleeps_on", trace.payload)
    settled()

    assert (job(job_id)["result"], outcomes(job_id)) == ("awake", ["RELEASED", "SUCCEEDED"])
    assert trace.count() == {"start": 2, "HandedBack": 1}
    assert len(worker.logged(
        "the handler went on after its job was handed back, what came of it is discarded"
    )) == 1  # fmt: skip


def test_steps_may_be_done_side_by_side(
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    worker = start_worker("--poll", "0.1")
    job_id = enqueue("side_by_side", trace.payload)
    settled()

    assert (job(job_id)["result"], outcomes(job_id)) == (
        ["a", "b", "c", "a"], ["RELEASED", "SUCCEEDED"],
    )  # fmt: skip
    assert trace.count() == {"start": 2, "a": 1, "b": 1, "c": 1}
    assert not [line for line in worker.lines if line["level"] in ("WARNING", "ERROR")]


def test_a_job_that_is_to_end_does_not_go_to_sleep(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    trace: Trace,
    settled: Callable,
) -> None:
    start_worker("--concurrency", "2")
    asked = enqueue("nods_off", trace.payload | {"seconds": 3600})
    asleep = enqueue("in_steps", trace.payload | {"seconds": 3600, "event": "e"})
    wait_until(lambda: trace.count() == {"start": 2, "first": 1})
    wait_until(lambda: job(asleep)["state"] == "SCHEDULED")

    for job_id in (asked, asleep):
        call(conn, "cancel_job", job_id=job_id)
    trace.open_gate()
    settled()

    assert [job(job_id)["state"] for job_id in (asked, asleep)] == ["CANCELLED"] * 2


def test_a_step_is_asked_for_again_when_the_session_is_lost(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    start_worker()
    job_id = enqueue("many_steps", trace.payload)

    def recorded() -> int:
        return len(call(conn, "recorded_steps", job_id=job_id))

    for number in range(3):
        wait_until(lambda: recorded() > 10 * number)  # noqa: B023
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'rota worker: steps' and datname = current_database()"
        )
        before = recorded()
        wait_until(lambda: recorded() > before)  # noqa: B023
    trace.open_gate()
    settled()

    assert outcomes(job_id) == ["SUCCEEDED"]
    assert job(job_id)["result"] == recorded() > 20


def test_a_coroutine_is_told_that_it_would_block_all_others(
    start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob, settled: Callable
) -> None:
    job_id = enqueue("blocks_the_loop", max_retries=0)

    start_worker()
    settled()

    assert "a coroutine awaits step_async()" in job(job_id)["last_error"]


def test_jobs_follow_with_the_finish_and_know_what_they_follow(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    settled: Callable,
) -> None:
    followers = [
        ["parents", {"node": "a"}], ["async_parents", {"node": "b"}], ["parents", {"after": "all"}],
    ]  # fmt: skip
    first = enqueue("followed", followers)

    start_worker("--poll", "0.1")
    settled("WAITING", "SCHEDULED", "RUNNING")

    assert job(first)["result"] == {"has": 3}
    rows = conn.execute("select id, result from rota.jobs where id > %s order by id", [first])
    a, b, last = rows.fetchall()
    assert (a[1], b[1], last[1]) == ([{"has": 3}], [{"has": 3}], [[{"has": 3}]] * 2)


def test_an_attempt_fails_whose_followers_are_refused(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    outcomes: Callable,
    settled: Callable,
) -> None:
    call(conn, "enqueue_job", task="nobody", queue="other", unique_key="k")
    call(conn, "configure_queue", queue="default", backoff_base="10 milliseconds")
    refused = {
        "taken": [["echo", {"queue": "other", "unique_key": "k"}]],
        "holds its unique_key": [["echo", {}], ["echo", {"queue": "other", "unique_key": "k"}]],
        "no job before this one": [["echo", {"after": "nobody"}]],
        "there is no job": [["echo", {"after": 10**9}]],
        "no option": [["echo", {"replace": True}]],
    }
    refused["unique_key"] = refused.pop("taken")
    jobs = {words: enqueue("followed", ones, max_retries=1) for words, ones in refused.items()}
    good = enqueue("echo", "good")

    worker = start_worker("--poll", "0.1")
    wait_until(lambda: all(job(one)["state"] == "FAILED" for one in jobs.values()))
    wait_until(lambda: job(good)["state"] == "COMPLETED")

    for words, job_id in jobs.items():
        assert outcomes(job_id) == ["FAILED", "FAILED"]
        assert words in job(job_id)["last_error"]
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (len(jobs) + 2,)
    assert worker.stop() == 0


# -- the thread that asks --------------------------------------------------------------------------


class Threads:
    """A clerk, and attempts for which it asks."""

    def __init__(self, url: str) -> None:
        self.desk = Desk({})
        self.link = Link(url, "steps", self.desk.closing, 10.0, 0.1)
        self.clerk = Clerk(self.desk, self.link, self.start)
        self.started: list[threading.Thread] = []

    def start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        self.started.append(thread)
        return thread

    def close(self) -> None:
        self.desk.closing.set()
        for thread in self.started:
            thread.join(10)
            assert not thread.is_alive()
        self.link.close()

    def attempts(self, conn: Connection, number: int, seconds: float = 60) -> list[Attempt]:
        call(conn, "enqueue_many", task="t", payloads=Jsonb([{}] * number))
        rows = conn.execute(
            "select id, token::text, task, '{}', queue, attempt, max_retries, null::float8,"
            " 0::float8, run, null, null from rota.claim_next_job(max_jobs => %s)", [number],
        )  # fmt: skip
        held = [
            Attempt(row, clock(), clock() + seconds, self.desk.report_progress, self.clerk)
            for row in rows
        ]
        self.desk.take(held)
        for one in held:
            self.desk.start(one)
        return held


@pytest.fixture
def threads(db: str) -> Any:
    made = Threads(db)
    yield made
    made.close()


def test_a_row_that_is_locked_keeps_no_other_waiting(
    conn: Connection, connect: Callable[..., Connection], threads: Threads
) -> None:
    """As by a handler that holds its own lease, which then waits for itself."""
    locked, free = threads.attempts(conn, 2)
    holder = connect(autocommit=False)
    holder.execute("select rota.hold_lease(%s, %s)", [locked.id, locked.token])
    got: list[Any] = []
    waiting = threads.start("handler", lambda: got.append(locked.step("a", lambda: 1)))
    wait_until(lambda: conn.execute(
        "select exists (select from pg_stat_activity where wait_event_type = 'Lock')"
    ).fetchone() == (True,))  # fmt: skip

    began = time.monotonic()
    for number in range(5):
        assert free.step(f"step {number}", lambda n: n, number) == number
    took = time.monotonic() - began
    holder.commit()
    waiting.join(10)

    assert took < 5 and got == [1]


def test_a_lock_that_is_held_for_long_is_an_error_of_the_step(
    conn: Connection,
    connect: Callable[..., Connection],
    threads: Threads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rota.worker.clerk.LONGEST_LOCK", 0.5)
    (locked,) = threads.attempts(conn, 1)
    holder = connect(autocommit=False)
    holder.execute("select rota.hold_lease(%s, %s)", [locked.id, locked.token])

    with pytest.raises(psycopg.errors.LockNotAvailable):
        locked.sleep("nap", 60)
    holder.commit()
    with pytest.raises(BaseException, match="was handed back"):
        locked.sleep("nap", 60)

    assert (locked.away, threads.desk.done.get(timeout=1)) == ("RELEASED", locked)
    assert not threads.desk.held and not threads.desk.running


def test_who_asks_in_vain_is_told_so(
    conn: Connection, connect: Callable[..., Connection], threads: Threads
) -> None:
    """Its lease runs out while it waits, or the worker ends."""
    short, long = threads.attempts(conn, 2, seconds=1)
    long.trusted_until = clock() + 60
    holder = connect(autocommit=False)
    holder.execute("select from rota.live_jobs for update")
    with pytest.raises(LeaseLost, match="before the database had answered"):
        short.sleep("a", 60)
    wait_until(lambda: not short.leaving)
    with pytest.raises(LeaseLost, match="could not be extended"):
        short.step("b", lambda: 1)
    raised: list[type] = []

    def ask() -> None:
        try:
            long.step("a", lambda: 1)
        except LeaseLost as error:
            raised.append(type(error))

    waiting = threads.start("handler", ask)
    threads.desk.closing.set()
    waiting.join(10)

    assert raised == [LeaseLost]
    holder.rollback()


def test_a_heartbeat_that_finds_a_job_gone_to_sleep_has_not_lost_it(
    conn: Connection, threads: Threads
) -> None:
    (sleeper,) = threads.attempts(conn, 1)

    sleeper.leaving = True
    threads.desk.lose(sleeper)
    sleeper.leaving = False
    with pytest.raises(BaseException, match="was handed back"):
        sleeper.sleep("nap", 60)
    threads.desk.lose(sleeper)

    assert not sleeper.lost and not threads.desk.overrun


def test_a_call_with_a_wrong_token_loses_the_lease(conn: Connection, threads: Threads) -> None:
    (one,) = threads.attempts(conn, 1)
    one.token = str(uuid4())

    with pytest.raises(LeaseLost, match="not held by this attempt"):
        one.wait_for("e", timeout=1)

    assert one.lost


def test_the_calls_are_named_for_what_they_may_do() -> None:
    assert steps.away(steps.Call("record_step", {}), [("x",)]) is None
    assert steps.away(steps.Call("sleep_job", {}), [("RUNNING", None)]) is None
    assert steps.away(steps.Call("sleep_job", {}), [("SCHEDULED", None)]) == "RELEASED"
    assert steps.away(steps.Call("await_event", {}), [("CANCELLED", None)]) == "CANCELLED"
