"""How attempts end: results, errors, retries, cancels and timeouts."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from rota.testing import Clock
from rota.worker.values import encode, storable
from tests.waiting import wait_until
from tests.worker import handlers
from tests.worker.conftest import THREAD_AND_COROUTINE, Trace, WorkerProcess

StartWorker = Callable[..., WorkerProcess]
ReadJob = Callable[[int], dict[str, Any]]


def test_a_job_runs_and_its_result_is_kept(
    start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob, settled: Callable
) -> None:
    job_id = enqueue("count_words", {"text": "to be or not to be"})

    worker = start_worker()
    settled()

    assert job(job_id)["state"] == "COMPLETED"
    assert job(job_id)["result"]["words"] == 6
    assert job(job_id)["attempt"] == 1
    assert worker.stop() == 0
    assert worker.logged("stopped") == [worker.lines[-1]]


def test_a_file_outside_the_folder_is_not_read(
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    settled: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "inside").write_text("to be or not to be")
    monkeypatch.setenv("ROTA_FILES", str(tmp_path))
    inside = enqueue("count_words", {"file": "inside"})
    outside = [
        enqueue("count_words", {"file": name})
        for name in ("/etc/passwd", "x/../../../../../../etc/passwd")
    ]

    start_worker()
    settled()

    assert job(inside)["result"]["words"] == 6
    assert [(job(id)["state"], job(id)["attempt"]) for id in outside] == [("FAILED", 1)] * 2
    assert all("there is no file" in job(id)["last_error"] for id in outside)


@pytest.mark.parametrize("folder", [None, ""])
def test_no_file_is_read_unless_a_folder_is_named(
    folder: str | None,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    settled: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ROTA_FILES", raising=False)
    if folder is not None:
        monkeypatch.setenv("ROTA_FILES", folder)
    job_id = enqueue("count_words", {"file": "README.md"})

    start_worker()
    settled()

    assert (job(job_id)["state"], job(job_id)["attempt"]) == ("FAILED", 1)
    assert "its ROTA_FILES names no folder" in job(job_id)["last_error"]


def test_a_failing_job_is_retried_until_its_retries_are_spent(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    outcomes: Callable,
    settled: Callable,
) -> None:
    call(conn, "configure_queue", queue="default", backoff_base="10 milliseconds")
    job_id = enqueue("flaky", {"probability": 1}, max_retries=2)

    start_worker("--poll", "0.1")
    settled()

    assert job(job_id)["state"] == "FAILED"
    assert outcomes(job_id) == ["FAILED", "FAILED", "FAILED"]
    error = job(job_id)["last_error"]
    assert error.startswith("Traceback (most recent call last):\n")
    assert "in flaky" in error
    assert "loop.py" not in error
    assert error.endswith("ConnectionError: failed at random, as 100% of these attempts do")


def test_a_handler_chooses_when_to_retry_and_whether(
    start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob, settled: Callable
) -> None:
    later = enqueue("later")
    never = enqueue("never")

    start_worker()
    wait_until(lambda: job(later)["last_error"] and job(never)["last_error"])

    assert job(later)["state"] == "SCHEDULED"
    assert 17_000 < (job(later)["run_at"] - job(later)["created_at"]).total_seconds() < 19_000
    assert job(never)["state"] == "FAILED"
    assert job(never)["attempt"] == 1
    assert job(never)["last_error"] == "no such customer\\x00\\ud800"


def test_what_cannot_be_stored_fails_the_attempt(
    start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob, settled: Callable
) -> None:
    results = {name: enqueue("bad_result", name, max_retries=0) for name in handlers.RESULTS}
    errors = {name: enqueue("bad_error", name, max_retries=0) for name in handlers.ERRORS}
    good = enqueue("echo", {"fine": "\\u0000 \\\\u0000"})

    worker = start_worker("--concurrency", "2")
    settled()

    for job_id in results.values():
        assert job(job_id)["state"] == "FAILED"
        assert job(job_id)["last_error"].startswith("the result cannot be stored: ")
    assert {name: job(job_id)["state"] for name, job_id in errors.items()} == dict.fromkeys(
        errors, "FAILED"
    )
    assert "SystemExit: 3" in job(errors["exit"])["last_error"]
    assert "a\\x00b\\ud800" in job(errors["nul"])["last_error"]
    assert "characters left out" in job(errors["long"])["last_error"]
    assert job(good)["result"] == {"fine": "\\u0000 \\\\u0000"}
    assert worker.stop() == 0


def test_what_the_database_refuses_fails_that_attempt_alone(
    start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob, settled: Callable
) -> None:
    refused = enqueue("much_later", max_retries=0)
    others = [enqueue("echo", number) for number in range(20)]

    start_worker()
    settled()

    assert job(refused)["state"] == "FAILED"
    assert job(refused)["last_error"].startswith("the database refused how this attempt ended")
    assert {job(other)["state"] for other in others} == {"COMPLETED"}


def test_an_unknown_task_is_handed_back_uncharged_and_visibly(
    start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob, outcomes: Callable
) -> None:
    job_id = enqueue("sing")

    worker = start_worker("--poll", "0.05")
    wait_until(lambda: outcomes(job_id) == ["RELEASED"])

    assert job(job_id)["state"] == "SCHEDULED"
    assert job(job_id)["attempt"] == 0
    assert (job(job_id)["run_at"] - job(job_id)["created_at"]).total_seconds() > 4
    assert "no handler for task 'sing'" in job(job_id)["last_error"]
    assert len(worker.logged("no handler for this task, its jobs are handed back")) == 1


@pytest.mark.parametrize("task", THREAD_AND_COROUTINE)
def test_a_running_job_can_be_cancelled(
    task: str,
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    trace: Trace,
    settled: Callable,
) -> None:
    start_worker("--lease", "1")
    job_id = enqueue(task, trace.payload)
    wait_until(lambda: trace.count()["start"])

    call(conn, "cancel_job", job_id=job_id, reason="changed my mind")
    settled()

    assert trace.count() == {"start": 1, "cancelled": 1}
    assert job(job_id)["state"] == "CANCELLED"


def test_a_job_that_overruns_its_timeout_is_failed_and_keeps_its_thread(
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    worker = start_worker("--concurrency", "1")
    slow = enqueue(
        "hold", {**trace.payload, "minds": False}, timeout="300 milliseconds", max_retries=0
    )
    wait_until(lambda: job(slow)["state"] == "FAILED")
    next_one = enqueue("echo")

    assert outcomes(slow) == ["TIMED_OUT"]
    assert job(slow)["last_error"] == "timed out after 0.3 seconds"
    assert trace.count() == {"start": 1}
    assert len(worker.logged("timed out; its place stays occupied until the handler returns")) == 1
    assert job(next_one)["state"] == "SCHEDULED"

    trace.open_gate()
    settled()

    assert job(next_one)["state"] == "COMPLETED"
    assert outcomes(slow) == ["TIMED_OUT"]


def test_a_handler_that_minds_its_timeout_is_told(
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    start_worker()

    job_id = enqueue("hold", trace.payload, timeout="200 milliseconds", max_retries=0)
    settled()
    wait_until(lambda: trace.count()["cancelled"])

    assert outcomes(job_id) == ["TIMED_OUT"]


def test_progress_can_be_read_while_the_job_runs(
    start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob, trace: Trace
) -> None:
    start_worker()

    job_id = enqueue("counting", trace.payload)

    wait_until(lambda: job(job_id)["progress"] == {"done": 7})


def test_a_handler_that_forks_and_returns_twice_finishes_once(
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    worker = start_worker("--concurrency", "1")

    ids = [enqueue("fork", trace.payload) for _ in range(3)]
    settled()

    assert trace.count() == {"parent": 3, "child": 3}
    assert [outcomes(job_id) for job_id in ids] == [["SUCCEEDED"]] * 3
    assert worker.stop() == 0


def test_a_handler_knows_the_slot_that_its_run_stands_for(
    conn: Connection, clock: Clock, start_worker: StartWorker, enqueue: Callable[..., int]
) -> None:
    once = enqueue("slot", max_retries=7, run_at="1969-07-20T20:17:40.123456Z")
    slot = datetime.now(UTC) + timedelta(hours=1)
    (schedule,) = call(conn, "schedule_job", task="slot", every=timedelta(days=1), starts_at=slot)
    clock.advance(timedelta(hours=3))

    start_worker()
    ended = "select job_id, result from rota.executions where outcome = 'SUCCEEDED'"
    wait_until(lambda: len(conn.execute(ended).fetchall()) == 2)

    assert dict(conn.execute(ended).fetchall()) == {
        once: ["1969-07-20T20:17:40.123456+00:00", 7],
        schedule["job_id"]: [slot.isoformat(), 3],
    }


texts = st.text(st.characters(codec=None))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)


def test_a_value_is_refused_by_us_or_taken_by_the_database(conn: Connection) -> None:
    @settings(max_examples=300, deadline=None)
    @given(values, texts)
    def check(value: Any, text: str) -> None:
        try:
            encoded = encode(value)
        except ValueError:
            encoded = "null"
        conn.execute("select %s::jsonb, %s::text", [encoded, storable(text)])

    check()


@pytest.mark.parametrize("value", ["\\u0000", {"\\\\u0000": "\\\\\\u0000"}])
def test_a_backslash_before_u0000_is_no_nul(conn: Connection, value: Any) -> None:
    stored = conn.execute("select %s::jsonb", [encode(value)]).fetchone()

    assert stored == (value,)


def test_of_reports_that_follow_each_other_quickly_the_last_is_stored(
    start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob, trace: Trace
) -> None:
    start_worker()

    job_id = enqueue("counting_on", {**trace.payload, "numbers": 40, "pause": 0.01})
    wait_until(lambda: trace.count()["start"])

    wait_until(lambda: job(job_id)["progress"] == 39)


def test_a_report_that_came_last_thing_is_no_worse_for_it(
    conn: Connection, start_worker: StartWorker, enqueue: Callable[..., int], settled: Callable
) -> None:
    """The job has ended by the time that its second report may be sent, and is left alone."""
    worker = start_worker()

    enqueue("counting_on", {"trace": os.devnull, "until": os.devnull, "numbers": 5, "pause": 0})
    settled()
    enqueue("echo")
    settled()

    assert conn.execute("select state, count(*) from rota.jobs group by 1").fetchall() == [
        ("COMPLETED", 2)
    ]
    assert worker.stop() == 0
    assert not worker.logged("the database refused a progress report")


def test_each_job_of_a_batch_gets_its_own_result_or_its_own_error(
    conn: Connection, start_worker: StartWorker, settled: Callable
) -> None:
    jobs = [
        {"task": "bad_result", "payload": "set", "max_retries": 0}
        if number % 7 == 3
        else {"task": "never"}
        if number % 7 == 5
        else {"task": "echo", "payload": number}
        for number in range(350)
    ]
    rows = call(conn, "enqueue_jobs", jobs=Jsonb(jobs))

    start_worker()
    settled()

    found = {
        id_: (state, result, error and error[:20])
        for id_, state, result, error in conn.execute(
            "select id, state, result, last_error from rota.jobs"
        )
    }
    assert found == {
        row["job_id"]: ("FAILED", None, "the result cannot be")
        if number % 7 == 3
        else ("FAILED", None, "no such customer\\x00")
        if number % 7 == 5
        else ("COMPLETED", number, None)
        for number, row in enumerate(rows)
    }


def test_a_handler_sees_its_job_as_it_is(
    conn: Connection, start_worker: StartWorker, settled: Callable
) -> None:
    (made,) = call(
        conn,
        "enqueue_job",
        task="about",
        payload=Jsonb({"number": 1}),
        queue="mail",
        priority=5,
        max_retries=7,
        timeout="90 seconds",
        run_at="2020-01-02 03:04:05Z",
    )

    start_worker("--queues", "mail")
    settled()

    (result,) = conn.execute("select result from rota.jobs").fetchone()
    seen = result.pop("token")
    assert len(seen) == 36
    assert result == {
        "id": made["job_id"],
        "task": "about",
        "payload": {"number": 1},
        "queue": "mail",
        "attempt": 1,
        "max_retries": 7,
        "timeout": 90.0,
        "scheduled_for": "2020-01-02T03:04:05+00:00",
        "cancelled": False,
        "shown": f"<Job {made['job_id']} 'about', attempt 1>",
    }
