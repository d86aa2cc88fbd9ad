"""Spans and log lines of attempts, in threads and in coroutines; nothing of it ends a worker."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanProcessor
from psycopg.types.json import Jsonb

from rota.logs import current_job
from rota.worker import Job, task
from rota.worker.attempt import Attempt
from rota.worker.crew import Crew
from rota.worker.desk import Desk
from tests.tracing import tracing_to_memory
from tests.waiting import wait_until
from tests.worker.conftest import WorkerProcess
from tests.worker.test_crew import attempt, put_in_hand, start_thread

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Broken(SpanProcessor):
    """Does what an exporter should not."""

    def __init__(self, at: str) -> None:
        self._at = at

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._at == "start":
            raise SystemExit("broken")

    def on_end(self, span: Any) -> None:
        if self._at == "end":
            raise SystemExit("broken")


@task("breaks in a thread")
def breaks_in_a_thread(job: Job) -> None:
    raise ConnectionError("refused")


@task("breaks in a coroutine")
async def breaks_in_a_coroutine(job: Job) -> None:
    raise ConnectionError("refused")


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk({})
    crew = Crew(desk, 1, start_thread)
    crew.start()
    yield desk
    desk.stopping.set()
    crew.stop(5)


def run(desk: Desk, name: str, id_: int) -> Attempt:
    put_in_hand(desk, [attempt(desk, name, id_)])
    job = desk.done.get(timeout=20)
    wait_until(lambda: not desk.in_hand)
    return job


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_an_attempt_is_a_span_with_the_error_that_is_recorded(desk: Desk, kind: str) -> None:
    with tracing_to_memory() as spans:
        jobs = [run(desk, f"breaks in a {kind}", id_) for id_ in (1, 2)]

    first, second = spans.named("process q")
    assert first.context.trace_id != second.context.trace_id
    assert first.parent is second.parent is None
    assert first.attributes["messaging.message.id"] == "1"
    assert first.attributes["error.type"] == "ConnectionError"
    assert first.events[0].attributes["exception.stacktrace"] == jobs[0].error


@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_a_broken_exporter_ends_no_attempt_and_no_worker(desk: Desk, kind: str, at: str) -> None:
    with tracing_to_memory(Broken(at)):
        jobs = [run(desk, f"breaks in a {kind}", id_) for id_ in (1, 2)]

    assert [job.error.splitlines()[-1] for job in jobs] == ["ConnectionError: refused"] * 2


def test_what_a_thread_says_between_two_jobs_is_of_none(desk: Desk) -> None:
    seen, give_up = [], desk.give_up
    desk.give_up = lambda job: (seen.append(current_job.get()), give_up(job))

    run(desk, "breaks in a thread", 1)

    assert seen == [None]


def test_a_worker_links_to_the_enqueue_and_sends_its_last_spans(
    start_worker: Callable[..., WorkerProcess],
    enqueue: Callable[..., int],
    job: Callable[[int], dict[str, Any]],
    settled: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPANS", str(tmp_path / "spans"))
    headers = {"traceparent": TRACEPARENT, "tenant": "acme"}
    ids = {
        enqueue(f"traced in a {kind}", queue=kind, headers=Jsonb(headers)): kind
        for kind in ("thread", "coroutine")
    }

    worker = start_worker("--queues", "thread,coroutine", tasks=("--tasks", "tests.worker.traced"))
    settled()
    assert worker.stop() == 0

    spans = [json.loads(line) for line in (tmp_path / "spans").read_text().splitlines()]
    assert {span["name"]: span["links"] for span in spans} == {
        "process thread": [TRACEPARENT.split("-")[2]],
        "process coroutine": [TRACEPARENT.split("-")[2]],
    }
    traces = {span["name"].split()[1]: span["trace"] for span in spans}
    lines = {line["job_id"]: line for line in worker.logged("inside")}
    assert lines.keys() == ids.keys()
    for job_id, kind in ids.items():
        assert job(job_id)["result"] == headers
        line = lines[job_id]
        assert (line["task"], line["queue"]) == (f"traced in a {kind}", kind)
        assert (line["run"], line["attempt"], line["trace_id"]) == (1, 1, traces[kind])
        assert len(line["span_id"]) == 16
    assert all("job_id" not in line for line in worker.logged("stopped"))
