"""Traces: a span for each enqueue, whose context goes with the job, and one for each attempt."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from opentelemetry.trace import SpanKind, StatusCode
from psycopg import AsyncConnection, Connection

import rota
from rota import Fail, Job, task
from rota.db.gateway import call
from rota.logs import JsonLines
from rota.testing import run_due_jobs
from tests.tracing import Spans, tracing_to_memory, written

ELSEWHERE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[Spans]:
    with tracing_to_memory() as spans:
        yield spans


@pytest.fixture
def conn(db: str) -> Iterator[Connection]:
    with psycopg.connect(db, autocommit=True) as conn:
        yield conn


def headers(conn: Connection) -> list[dict[str, str] | None]:
    rows = conn.execute("select headers from rota.jobs order by id").fetchall()
    return [found for (found,) in rows]


def test_an_enqueue_is_a_span_of_its_trace_and_its_context_goes_with_the_job(conn, spans):
    with spans.tracer.start_as_current_span("request"):
        made = rota.enqueue(conn, "work", {"n": 1}, queue="mail")

    request, send = spans.take("request", "send mail")
    assert send.kind is SpanKind.PRODUCER
    assert send.parent == request.context
    assert dict(send.attributes) == {
        "messaging.system": "rota",
        "messaging.operation.type": "send",
        "messaging.operation.name": "send",
        "messaging.destination.name": "mail",
        "messaging.message.id": str(made.id),
        "rota.task": "work",
    }
    assert headers(conn) == [{"traceparent": written(send.context)}]


def test_an_asynchronous_enqueue_is_traced_alike(db, conn, spans):
    async def enqueue() -> None:
        async with await AsyncConnection.connect(db, autocommit=True) as aconn:
            with spans.tracer.start_as_current_span("request"):
                await rota.enqueue_async(aconn, "work", headers={"baggage": "a=b"})
                await rota.enqueue_many_async(aconn, "work", [1], queue="many")

    asyncio.run(enqueue())

    request, send, many = spans.take("request", "send default", "send many")
    assert send.parent == many.parent == request.context
    assert headers(conn) == [
        {"baggage": "a=b", "traceparent": written(send.context)},
        {"traceparent": written(many.context)},
    ]


def test_many_jobs_are_one_span_and_their_own_headers_stay(conn, spans):
    rota.enqueue_many(conn, "work", [1, 2], queue="mail", headers={"a": "b"})
    rota.enqueue_many(
        conn, [{"task": "x"}, {"task": "y", "headers": {"traceparent": ELSEWHERE}, "queue": "q"}]
    )

    of_one_task, of_several = spans.take("send mail", "send")
    carried = {"a": "b", "traceparent": written(of_one_task.context)}
    assert of_one_task.attributes["messaging.batch.message_count"] == 2
    assert of_several.attributes["messaging.batch.message_count"] == 2
    assert headers(conn) == [
        *[carried, carried],
        {"traceparent": written(of_several.context)},
        {"traceparent": ELSEWHERE},
    ]


def test_a_context_that_is_given_is_kept_and_linked_to(conn, spans):
    rota.enqueue(conn, "work", headers={"traceparent": ELSEWHERE, "tracestate": "a=b"})

    (send,) = spans.take("send default")
    assert [written(link.context) for link in send.links] == [ELSEWHERE]
    assert headers(conn) == [{"traceparent": ELSEWHERE, "tracestate": "a=b"}]


def test_a_trace_never_makes_headers_too_large(conn, spans):
    large = {"a": "b" * 8183}

    rota.enqueue(conn, "work", headers=large)

    assert headers(conn) == [large]


def test_an_enqueue_that_is_refused_is_an_error_of_its_span(conn, spans):
    with pytest.raises(psycopg.Error, match="priority must be"):
        rota.enqueue(conn, "work", priority=1000)
    with pytest.raises(psycopg.Error, match="headers must be an object"):
        rota.enqueue(conn, "work", headers="x")
    with pytest.raises(ValueError, match="headers: Object of type set"):
        rota.enqueue(conn, "work", headers={"a": {1}})

    (first, _, last) = spans.named("send default")
    assert first.status.status_code is StatusCode.ERROR
    assert first.attributes["error.type"] == "DatabaseError"
    assert last.attributes["error.type"] == "ValueError"


def test_a_schedule_carries_the_headers_that_it_was_given_and_no_trace(conn, spans):
    with spans.tracer.start_as_current_span("deploy"):
        rota.schedule(conn, "work", every=60, headers={"tenant": "acme"})
        rota.schedule(conn, "work", every=60)

    assert headers(conn) == [{"tenant": "acme"}, None]


def test_an_attempt_is_a_trace_of_its_own_with_a_link_to_the_enqueue(conn, spans):
    seen = []

    @task("work")
    def work(job: Job) -> None:
        seen.append((written(spans.tracer.start_span("inside").get_span_context()), job.headers))
        if job.attempt == 1:
            raise ConnectionError("refused")

    with spans.tracer.start_as_current_span("request"):
        made = rota.enqueue(conn, "work", queue="mail")
        call(conn, "configure_queue", queue="mail", backoff_base=timedelta(microseconds=1))
        first, second = run_due_jobs(conn)

    assert (first.state, second.state) == ("SCHEDULED", "COMPLETED")
    (send,) = spans.take("send mail")
    failed, succeeded = spans.named("process mail")
    assert [found for _, found in seen] == [{"traceparent": written(send.context)}] * 2
    for attempt, span in enumerate((failed, succeeded), 1):
        assert (span.kind, span.parent) == (SpanKind.CONSUMER, None)
        assert [written(link.context) for link in span.links] == [written(send.context)]
        assert span.attributes["messaging.message.id"] == str(made.id)
        assert span.attributes["messaging.operation.type"] == "process"
        assert span.attributes["messaging.destination.name"] == "mail"
        assert span.attributes["rota.task"] == "work"
        assert span.attributes["rota.attempt"] == attempt
        assert f"{span.context.trace_id:032x}" in seen[attempt - 1][0]
    assert len({send.context.trace_id, failed.context.trace_id, succeeded.context.trace_id}) == 3
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "ConnectionError: refused"
    assert failed.attributes["error.type"] == "ConnectionError"
    (event,) = failed.events
    assert event.attributes["exception.type"] == "ConnectionError"
    assert "in work" in event.attributes["exception.stacktrace"]
    assert succeeded.status.status_code is StatusCode.UNSET


def test_an_attempt_without_an_exception_may_fail_too(conn, spans):
    @task("work")
    async def work(job: Job) -> object:
        return {1, 2}

    rota.enqueue(conn, "work")
    (ran,) = run_due_jobs(conn)

    (span,) = spans.take("process default")
    assert "cannot be stored" in ran.error
    assert span.attributes["error.type"] == "_OTHER"
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("given", ["", "00-xyz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", None])
def test_what_is_no_context_of_a_trace_is_linked_to_nothing(conn, spans, given):
    @task("work")
    def work(job: Job) -> None:
        pass

    call(conn, "enqueue_job", task="work")
    if given is not None:
        conn.execute(
            "update rota.live_jobs set headers = jsonb_build_object('traceparent', %s::text)",
            [given],
        )
    run_due_jobs(conn)

    (span,) = spans.take("process default")
    assert span.links == ()


def test_lines_of_a_handler_tell_of_which_job_and_of_which_trace_they_are(conn, spans):
    lines = []

    @task("work")
    async def work(job: Job) -> None:
        record = logging.makeLogRecord({"msg": "from a library"})
        lines.append(await asyncio.to_thread(JsonLines().format, record))
        raise Fail("enough")

    made = rota.enqueue(conn, "work", queue="mail")
    run_due_jobs(conn)
    lines.append(JsonLines().format(logging.makeLogRecord({"msg": "afterwards"})))

    (span,) = spans.take("process mail")
    inside, after = map(json.loads, lines)
    assert (
        inside.items()
        >= {
            "job_id": made.id,
            "run": 1,
            "attempt": 1,
            "task": "work",
            "queue": "mail",
            "trace_id": f"{span.context.trace_id:032x}",
            "span_id": f"{span.context.span_id:016x}",
        }.items()
    )
    assert after.keys() == {"time", "level", "logger", "message", "pid"}


def test_without_an_sdk_no_job_has_headers(conn):
    @task("work")
    def work(job: Job) -> None:
        assert job.headers == {}

    rota.enqueue(conn, "work")
    (ran,) = run_due_jobs(conn)

    assert ran.state == "COMPLETED"
    assert headers(conn) == [None]


def test_who_does_not_trace_imports_nothing_of_it():
    program = (
        "import sys, rota, rota.testing, rota.worker.crew, rota.worker.__main__, rota.tracing\n"
        "rota.tracing.flush()\n"
        "assert rota.tracing.current_ids() == {} and rota.tracing.processing(None) is None\n"
        "print([name for name in sys.modules if 'opentelemetry' in name])"
    )

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (found.stdout, found.stderr) == ("[]\n", "")
