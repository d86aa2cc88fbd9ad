"""Traces for OpenTelemetry: a span for each enqueue, one for each attempt, and what links them.

The names are those of its conventions for messaging, which are in development still: they stand
here, and nowhere else. A job carries W3C's ``traceparent`` and ``tracestate`` in its headers.

Nothing is imported from here that was not imported already: in a process where nobody has imported
``opentelemetry.trace`` nobody has set it up, so that no span would be seen.
"""

import json
import re
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

SYSTEM = "rota"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
LONGEST_TRACESTATE = 512  # characters; what is longer may be left out, says W3C
WRITTEN = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # a traceparent
MOST_BYTES = 8192  # of a job's headers, as the database counts them
LONGEST_DESCRIPTION = 200  # characters
FLUSH = 5.0  # seconds that the last spans get to be sent

_tracer: Any = None


def _api() -> Any:
    """Return ``opentelemetry.trace`` if this process uses it; else None."""
    api = sys.modules.get("opentelemetry.trace")
    return api if hasattr(api, "use_span") else None  # which it has once it is imported


def _tracer_of(api: Any) -> Any:
    """Return our tracer, which is asked for once: the one of the API finds what is set up later."""
    global _tracer
    if _tracer is None:
        _tracer = api.get_tracer(SYSTEM)
    return _tracer


def current_ids() -> dict[str, str]:
    """Return the ids of the span that is under way here, for a line in the log."""
    if (api := _api()) is None:
        return {}
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {
        "trace_id": api.format_trace_id(context.trace_id),
        "span_id": api.format_span_id(context.span_id),
    }


class Sending:
    """An enqueue: a context in which the call is made. This one is of a process without traces."""

    def __enter__(self) -> "Sending":
        """Begin the span."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the span, with the error that has left the context."""

    def headers(self, given: Any) -> Any:
        """Return the headers that a job is to have whose producer has given these."""
        return given

    def sent(self, job_id: int) -> None:
        """Note the id of the one job that was enqueued."""


class _TracedSending(Sending):
    def __init__(self, api: Any, name: str, attributes: dict[str, Any], given: Any) -> None:
        self._span = _tracer_of(api).start_span(
            name, kind=api.SpanKind.PRODUCER, attributes=attributes, links=_links(api, given)
        )
        self._scope = api.use_span(self._span, end_on_exit=True)
        self._own = _written(api, self._span)

    def __enter__(self) -> Sending:
        self._scope.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._span.set_attribute("error.type", kind.__qualname__)
        self._scope.__exit__(kind, error, trace)

    def headers(self, given: Any) -> Any:
        """Return the headers with our span in them, if they name none and there is room for it."""
        if not given:
            return self._own or given
        if not isinstance(given, Mapping) or TRACEPARENT in given:
            return given
        headers = {**given, **self._own}
        try:
            size = len(json.dumps(headers, ensure_ascii=False).encode())
        except (TypeError, ValueError, RecursionError):  # as the enqueue will say, too
            return given
        return headers if size <= MOST_BYTES else given

    def sent(self, job_id: int) -> None:
        self._span.set_attribute("messaging.message.id", str(job_id))


_untraced = Sending()


def sending(queue: Any, task: Any, given: Any = None, number: int | None = None) -> Sending:
    """Return the context for a call that enqueues.

    Args:
        queue: where to; None for what is no single queue.
        task: the name of the task; None for what is no single task.
        given: the headers that the producer has given.
        number: how many jobs, if the call is one that enqueues many.
    """
    if (api := _api()) is None:
        return _untraced
    attributes = {
        "messaging.system": SYSTEM,
        "messaging.operation.type": "send",
        "messaging.operation.name": "send",
        "messaging.destination.name": queue if queue is None else str(queue),
        "messaging.batch.message_count": number,
        "rota.task": task if task is None else str(task),
    }
    known = {name: value for name, value in attributes.items() if value is not None}
    return _TracedSending(api, "send" if queue is None else f"send {queue}", known, given)


class Processing:
    """The span of an attempt, from the moment in which its handler starts.

    A trace of its own, linked to the one of the enqueue: a job may run long after that has ended,
    again and again, or be one of thousands that one request has enqueued.
    """

    __slots__ = ("_api", "_detach", "_span", "_token")

    def __init__(self, api: Any, job: Any) -> None:
        context = sys.modules["opentelemetry.context"]
        self._api = api
        self._span = _tracer_of(api).start_span(
            f"process {job.queue}",
            context=context.Context(),
            kind=api.SpanKind.CONSUMER,
            attributes={
                "messaging.system": SYSTEM,
                "messaging.operation.type": "process",
                "messaging.operation.name": "process",
                "messaging.destination.name": job.queue,
                "messaging.message.id": str(job.id),
                "rota.task": job.task,
                "rota.run": job.run,
                "rota.attempt": job.attempt,
            },
            links=_links(api, job.headers),
        )
        self._token = context.attach(api.set_span_in_context(self._span))
        self._detach: Callable[[Any], None] = context.detach

    def end(self, text: str | None, kind: type[BaseException] | None) -> None:
        """End the span.

        Args:
            text: how the attempt failed, as the database is told; None if it did not.
            kind: the class of what its handler raised; None if it raised nothing.
        """
        if text is not None:
            name = "_OTHER" if kind is None else _name(kind)
            last_line = text.rpartition("\n")[2][:LONGEST_DESCRIPTION]
            self._span.set_attribute("error.type", name)
            self._span.set_status(self._api.Status(self._api.StatusCode.ERROR, last_line))
            if kind is not None:
                event = {
                    "exception.type": name,
                    "exception.message": last_line,
                    "exception.stacktrace": text,
                }
                self._span.add_event("exception", event)
        self._detach(self._token)
        self._span.end()


def processing(job: Any) -> Processing | None:
    """Begin the span of an attempt whose handler is about to start, here; None without traces."""
    api = _api()
    return None if api is None else Processing(api, job)


def outgoing(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers by which a request of a job belongs to a trace.

    It is the one under way here, or without one that of the job, whose headers these are.
    """
    if (api := _api()) is not None and (own := _written(api, api.get_current_span())):
        return own
    if not WRITTEN.fullmatch(headers.get(TRACEPARENT, "")):
        return {}
    state = headers.get(TRACESTATE, "")
    kept = state.isascii() and 0 < len(state) <= LONGEST_TRACESTATE
    return {TRACEPARENT: headers[TRACEPARENT], **({TRACESTATE: state} if kept else {})}


def flush(seconds: float = FLUSH) -> None:
    """Wait until the last spans are sent, or for so long: a worker's end is no end of Python's."""
    if (api := _api()) is None:
        return
    if (send := getattr(api.get_tracer_provider(), "force_flush", None)) is not None:
        thread = threading.Thread(target=send, name="last spans", daemon=True)
        thread.start()
        thread.join(seconds)


def _links(api: Any, headers: Any) -> list[Any]:
    """Return a link to the span that headers name, if they do."""
    if not isinstance(headers, Mapping) or not isinstance(headers.get(TRACEPARENT), str):
        return []
    carrier = {name: it for name, it in headers.items() if isinstance(it, str)}
    context = api.get_current_span(_propagator().extract(carrier)).get_span_context()
    return [api.Link(context)] if context.is_valid else []


def _written(api: Any, span: Any) -> dict[str, str]:
    """Return the headers that name this span; none if it is of no trace."""
    headers: dict[str, str] = {}
    _propagator().inject(headers, api.set_span_in_context(span))
    if len(headers.get(TRACESTATE, "")) > LONGEST_TRACESTATE:
        del headers[TRACESTATE]
    return headers


def _propagator() -> Any:
    """Return what reads and writes W3C's headers, whatever else the process propagates elsewhere.

    Baggage stays out of the database: it may hold what is not to be stored.
    """
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()


def _name(kind: type[BaseException]) -> str:
    return type.__dict__["__name__"].__get__(kind)  # whatever its metaclass says
