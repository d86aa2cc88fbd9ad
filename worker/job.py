"""What a handler sees: ``Job``, and the exceptions that it may raise or meet."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rota.workflows import Graph

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_decoder = json.JSONDecoder()


class Retry(Exception):  # noqa: N818 (it reads as what it asks for: raise Retry(...))
    """Raised by a handler: this attempt failed, try again after ``in_``, retries permitting."""

    def __init__(self, reason: str = "the handler asked for a retry", *, in_: timedelta) -> None:
        """Take the delay; it must not be negative."""
        if in_ < timedelta():
            raise ValueError(f"a retry cannot be due {-in_} ago")
        super().__init__(reason)
        self.delay = in_


class Fail(Exception):  # noqa: N818
    """Raised by a handler: this attempt failed, and no other will do better."""


class LeaseLost(Exception):  # noqa: N818
    """Met by a handler that asks for something under a lease it holds no more.

    Whatever the handler does now counts for nothing: another attempt may be under way.
    """


class EventTimeout(TimeoutError):  # noqa: N818
    """Met by a handler whose event did not come in time.

    That is recorded: whoever comes to this wait again, in another attempt, meets it again.
    """


class HandedBack(BaseException):
    """Ends the handler of a job that sleeps or waits for an event: let it through.

    It is no ``Exception``, so that what catches these does not catch it. By then the job is handed
    back, its place in the limits of its queue is free, and another worker may have it. A handler
    that goes on all the same does so in vain: what it returns is discarded, each further step,
    sleep or wait raises this again, and its place in this worker is occupied until it returns.
    """


def lets_go(error: BaseException) -> bool:
    """Tell whether this is what ends a handler whose job was handed back, be it in a group."""
    if issubclass(type(error), BaseExceptionGroup):
        return error.subgroup(HandedBack) is not None
    return issubclass(type(error), HandedBack)


class Parent(NamedTuple):
    """What became of a job on which another depends.

    Attributes:
        job_id: its id.
        node: its name in its workflow, or None.
        state: COMPLETED, FAILED or CANCELLED; None once history holds it no more.
        result: what its handler returned.
        error: its last error, or None.
    """

    job_id: int
    node: str | None
    state: str | None
    result: Any
    error: str | None

    @property
    def id(self) -> int:
        """The same id, as the views call it."""
        return self.job_id


class Job:
    """One attempt at a job, as its handler sees it.

    Attributes:
        id: the job's id, the same in every attempt: use it as idempotency key.
        task: the name under which the handler is registered.
        queue: the queue that the job came from.
        attempt: 1 at the first try.
        run: 1 for a job that runs once; the runs of a schedule, and a job that is tried again
            after it had ended, count up.
        max_retries: how many tries may follow the first.
        timeout: seconds that the attempt may take, or None.
        headers: what its producer sent along, texts by names in lower case; empty without any.
        key: what it shares with other jobs of its queue with whom it takes turns, or None.
        token: proof of this attempt's lease, for ``rota.hold_lease`` and ``rota.finish_job``. A
            handler that finishes its own job must return the very result that it passed there.
    """

    __slots__ = (
        "_headers",
        "_payload",
        "_slot",
        "attempt",
        "id",
        "key",
        "max_retries",
        "queue",
        "run",
        "task",
        "timeout",
        "token",
    )

    def __init__(
        self,
        row: tuple[
            int, str, str, str, str, int, int, float | None, float, int, str | None, str | None
        ],
    ) -> None:
        """Take the columns of a claim; payload and headers are texts, timeout and slot seconds."""
        (
            self.id,
            self.token,
            self.task,
            self._payload,
            self.queue,
            self.attempt,
            self.max_retries,
            self.timeout,
            self._slot,
            self.run,
            self._headers,
            self.key,
        ) = row

    def __repr__(self) -> str:
        """Name the job without its payload."""
        return f"<Job {self.id} {self.task!r}, attempt {self.attempt}>"

    @property
    def payload(self) -> Any:
        """What the producer passed: any JSON value."""
        if isinstance(self._payload, str):
            self._payload = (_decoder.raw_decode(self._payload)[0],)  # from jsonb: no white space
        return self._payload[0]

    @property
    def headers(self) -> dict[str, str]:
        """What the producer sent along, beside the payload."""
        if not isinstance(self._headers, dict):
            self._headers = {} if self._headers is None else _decoder.raw_decode(self._headers)[0]
        return self._headers

    @property
    def scheduled_for(self) -> datetime:
        """The time that this run stands for, in UTC, be it late or a retry.

        Of a run of a schedule that is its slot, of another job the time it was enqueued for.
        """
        return EPOCH + timedelta(seconds=self._slot)

    @property
    def cancelled(self) -> bool:
        """Whether to stop: somebody asked for it, or this attempt no longer counts.

        It no longer counts when its timeout has passed, when its lease was lost, and when the
        lease could not be extended for so long that it may have been lost.
        """
        raise NotImplementedError

    @property
    def log(self) -> logging.LoggerAdapter:
        """A logger whose lines carry the job's id, task, queue and attempt."""
        fields = {
            "job_id": self.id,
            "task": self.task,
            "queue": self.queue,
            "attempt": self.attempt,
        }
        return logging.LoggerAdapter(logging.getLogger("rota.task"), {"fields": fields})

    def progress(self, value: Any) -> None:
        """Show how far the job is: any JSON value, stored within about a second.

        Of values that follow each other more quickly, only the last is stored.

        Raises:
            ValueError: the database could not store the value.
        """
        raise NotImplementedError

    def step(self, name: str, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Do a part of the work once, whatever becomes of this attempt.

        ``work`` is called unless a step of that name is recorded for the job, and what it returns
        is recorded. So an attempt that follows on this one, after an error, a killed worker or a
        sleep, does not do again what is done. Where the worker dies between the end of ``work`` and
        the record, ``work`` is called again: give what it does elsewhere the job's id and the name
        as idempotency key. What it does in this database is done exactly once if it is recorded by
        ``rota.record_step`` in the same transaction.

        Steps belong to the job and are kept when it is retried; a run of a schedule has its own.

        Args:
            name: of the step, once in a handler; in a loop with what the turn is about.
            work: what to do.
            args: what it is called with.
            kwargs: the same by name.

        Returns:
            What is recorded, as JSON has it: a tuple comes back as a list.

        Raises:
            LeaseLost: this attempt no longer counts.
            ValueError: the database could not store what ``work`` returned.
        """
        raise NotImplementedError

    async def step_async(
        self, name: str, work: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Do what ``step`` does, in a coroutine; ``work`` may be one, too."""
        raise NotImplementedError

    def sleep(self, name: str, delay: timedelta | float) -> None:
        """Go on with this handler so much later, from its start and past its recorded steps.

        The job is handed back meanwhile: it occupies no worker, no lease and no connection, nor
        room in the limits of its queue, and no attempt is charged. When it sleeps is recorded as a
        step, so that the time counts from when it was reached first. Returns when it has passed.

        In a transaction of its own: commit, or roll back, what is open before. Steps that are under
        way beside it, in other threads or coroutines, are not recorded any more.

        Args:
            name: of the step, once in a handler.
            delay: a timedelta, or seconds; up to 366 days.

        Raises:
            HandedBack: the time has not come; let it through.
            LeaseLost: this attempt no longer counts.
        """
        raise NotImplementedError

    async def sleep_async(self, name: str, delay: timedelta | float) -> None:
        """Do what ``sleep`` does, in a coroutine."""
        raise NotImplementedError

    def wait_for(self, event: str, *, timeout: timedelta | float, step: str | None = None) -> Any:
        """Return the payload of an event, that was emitted before or that the job waits for.

        It waits as it sleeps: handed back, until somebody emits the event (``rota.emit_event``).
        What came, or that nothing did, is recorded as a step.

        Args:
            event: its name, with an id in it, for what is emitted first of a name counts.
            timeout: after which nothing is waited for any more, from when this was reached first: a
                timedelta, or seconds; up to 366 days.
            step: the name of the step; that of the event, if left out.

        Raises:
            EventTimeout: it did not come in time.
            HandedBack: it has not come yet; let it through.
            LeaseLost: this attempt no longer counts.
        """
        raise NotImplementedError

    async def wait_for_async(
        self, event: str, *, timeout: timedelta | float, step: str | None = None
    ) -> Any:
        """Do what ``wait_for`` does, in a coroutine."""
        raise NotImplementedError

    def parents(self) -> list[Parent]:
        """Return what became of the jobs on which this one depends, by id.

        Raises:
            LeaseLost: this attempt no longer counts.
        """
        raise NotImplementedError

    async def parents_async(self) -> list[Parent]:
        """Do what ``parents`` does, in a coroutine."""
        raise NotImplementedError

    @property
    def next(self) -> "Graph":
        """Jobs to enqueue when this attempt has succeeded, in the transaction of its end.

        ``job.next.add(handler, payload, after=..., ...)``, as in a ``rota.workflow``. Those that
        depend on nothing else depend on this job, whose result is among their parents'. An attempt
        that fails, is cancelled or lost adds nothing.
        """
        raise NotImplementedError
