"""What a handler asks the database for: calls, and how their answers are read."""

import json
from typing import TYPE_CHECKING, Any

from rota.client import Call, as_text
from rota.worker.job import EventTimeout, Parent
from rota.worker.values import LONGEST_RESULT, encode

if TYPE_CHECKING:
    from rota.worker.attempt import Attempt

Rows = list[tuple[Any, ...]]

LONGEST_NEXT = 4 * LONGEST_RESULT  # bytes of JSON
HELD = ("RUNNING", "ARRIVED", "TIMED_OUT")  # the answers after which a job is held still


def pair(job: "Attempt") -> dict[str, tuple[str, str]]:
    """Return the arguments that prove a lease."""
    return {"job_id": ("bigint", str(job.id)), "token": ("uuid", job.token)}


def recorded(job: "Attempt") -> Call:
    """Return the question which steps are recorded."""
    arguments = {"job_id": ("bigint", str(job.id))}
    return Call("recorded_steps", arguments, "step, result::text")


def record(job: "Attempt", name: str, value: Any) -> Call:
    """Return the call that records a step.

    Raises:
        ValueError: the value cannot be stored.
    """
    arguments = pair(job) | {"step": _text("name", name)}
    if value is not None:
        arguments["result"] = ("jsonb", encode(value))
    return Call("record_step", arguments, "record_step::text")


def sleep(job: "Attempt", name: str, delay: Any) -> Call:
    """Return the call that lets a job sleep."""
    arguments = {
        "step": _text("name", name),
        "delay": ("interval", as_text("delay", "interval", delay)),
    }
    return Call("sleep_job", pair(job) | arguments, "state, null")


def wait(job: "Attempt", event: str, timeout: Any, step: str | None) -> Call:
    """Return the call that takes an event, or lets a job wait for it."""
    arguments = {
        "step": _text("step", event if step is None else step),
        "event": _text("event", event),
        "timeout": ("interval", as_text("timeout", "interval", timeout)),
    }
    return Call("await_event", pair(job) | arguments, "state, payload::text")


def parents(job: "Attempt") -> Call:
    """Return the question what became of the parents."""
    arguments = {"job_id": ("bigint", str(job.id))}
    return Call("parent_results", arguments, "job_id, node, state, result::text, error")


def away(call: Call, rows: Rows) -> str | None:
    """Return how a job was handed back by a call, as an outcome, or None if it was not."""
    if not may_leave(call) or rows[0][0] in HELD:
        return None
    return "CANCELLED" if rows[0][0] == "CANCELLED" else "RELEASED"


def may_leave(call: Call) -> bool:
    """Tell whether a call may hand a job back."""
    return call.source in ("sleep_job", "await_event")


def read(text: str | None) -> Any:
    """Return what a JSON text says, as handlers get it."""
    return None if text is None else json.loads(text)


def read_event(event: str, rows: Rows) -> Any:
    """Return the payload of an event.

    Raises:
        EventTimeout: there is none.
    """
    [(state, payload)] = rows
    if state == "TIMED_OUT":
        raise EventTimeout(f"event {event} did not come in time")
    return read(payload)


def read_parents(rows: Rows) -> list[Parent]:
    """Return parents as handlers get them."""
    return [
        Parent(job_id, node, state, read(result), error)
        for job_id, node, state, result, error in rows
    ]


def _text(name: str, value: Any) -> tuple[str, str]:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, not {type(value).__qualname__}")
    return "text", as_text(name, "text", value)
