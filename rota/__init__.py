"""Rota: jobs, retries and schedules in PostgreSQL.

A producer, in a transaction of its own making::

    from rota import enqueue

    enqueue(conn, "send_email", {"to": "ann@example.com"}, queue="mail")

A handler, in a module that ``rota worker --tasks`` names::

    from rota import Job, task

    @task("send_email", queue="mail", max_retries=5)
    def send_email(job: Job, to: str) -> dict:
        ...
        return {"sent": True}

which a producer who can import it may call by its own arguments::

    send_email.enqueue(conn, to="ann@example.com")
"""

from pathlib import Path

_CHECKOUT = Path(__file__).parents[1]
if (_CHECKOUT / "pyproject.toml").is_file():
    # In a checkout the packages app, db, demo and worker stand beside this one, not in it.
    __path__.append(str(_CHECKOUT))

from rota.client import (  # noqa: E402
    EnqueuedJob,
    emit_event,
    emit_event_async,
    enqueue,
    enqueue_async,
    enqueue_many,
    enqueue_many_async,
    schedule,
    schedule_async,
)
from rota.shards import shard_of  # noqa: E402
from rota.worker.job import EventTimeout, Fail, Job, LeaseLost, Parent, Retry  # noqa: E402
from rota.worker.tasks import Task, task  # noqa: E402
from rota.workflows import Node, Workflow, workflow  # noqa: E402

__all__ = [
    "EnqueuedJob",
    "EventTimeout",
    "Fail",
    "Job",
    "LeaseLost",
    "Node",
    "Parent",
    "Retry",
    "Task",
    "Workflow",
    "emit_event",
    "emit_event_async",
    "enqueue",
    "enqueue_async",
    "enqueue_many",
    "enqueue_many_async",
    "schedule",
    "schedule_async",
    "shard_of",
    "task",
    "workflow",
]
