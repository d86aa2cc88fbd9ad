"""The worker's ledger of one attempt, from its claim until the database knows how it ended."""

from collections.abc import Callable
from datetime import timedelta
from inspect import isawaitable
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Protocol

from rota.client import Call
from rota.tracing import sending
from rota.worker import steps
from rota.worker.clock import clock
from rota.worker.job import HandedBack, Job, LeaseLost, Parent
from rota.worker.values import encode
from rota.workflows import Graph

if TYPE_CHECKING:
    from rota.worker.desk import Desk


class Clerk(Protocol):
    """Who asks the database for handlers, and tells what it raised."""

    def ask(self, job: "Attempt", call: Call) -> steps.Rows:
        """Return the rows of a call."""

    async def ask_async(self, job: "Attempt", call: Call) -> steps.Rows:
        """Return the rows of a call, in a coroutine."""


class Attempt(Job):
    """A job in our hands.

    It is the very object that the handler gets, since a second one for each job would be felt;
    what a handler may use of it stands in ``Job``.
    """

    __slots__ = (
        "_clerk",
        "_next",
        "_recorded",
        "_report",
        "away",
        "cancel_requested",
        "deadline",
        "desk",
        "error",
        "following",
        "handed_back",
        "if_known",
        "leased_at",
        "leaving",
        "look",
        "lost",
        "news",
        "news_delay",
        "news_due",
        "result",
        "result_size",
        "retry",
        "retry_in",
        "seconds",
        "size",
        "started_at",
        "trusted_until",
    )

    def __init__(
        self,
        row: tuple[
            int, str, str, str, str, int, int, float | None, float, int, str | None, str | None
        ],
        leased_at: float,
        trusted_until: float,
        report: Callable[["Attempt"], None],
        clerk: Clerk | None = None,
    ) -> None:
        """Take a row of the claim, when that was asked for, who is told of news, and who asks."""
        super().__init__(row)
        self._report = report
        self._clerk = clerk
        self.desk: Desk | None = None  # that took it
        self._recorded: dict[str, str | None] | None = None  # steps, as JSON, once asked for
        self._next: Graph | None = None
        self.size = getsizeof(self._payload)  # bytes of memory
        if self._headers is not None:
            self.size += getsizeof(self._headers)

        self.leased_at = leased_at  # when the lease was last asked for, by clock()
        self.trusted_until = trusted_until
        self.cancel_requested = False
        self.lost = False
        self.look: Callable[[], object] | None = None  # has the event loop look at stop_reason
        self.started_at = 0.0
        self.deadline: float | None = None
        self.news: str | None = None  # progress that was not sent yet
        self.news_due = 0.0  # not to be sent before
        self.news_delay = 1.0  # seconds until it is tried again

        self.seconds = 0.0
        self.error: str | None = None
        self.result: str | None = None
        self.result_size = 0  # bytes of memory
        self.retry_in: timedelta | None = None
        self.retry = True
        self.following: str | None = None  # the jobs that its finish adds, as JSON
        self.leaving = False  # a call is under way that may hand it back
        self.away: str | None = None  # it was handed back by its handler: RELEASED, or CANCELLED
        self.handed_back: timedelta | None = None  # released, to be due after this delay,
        self.if_known: timedelta | None = None  # or after this one if some worker has a handler

    @property
    def cancelled(self) -> bool:
        """Whether to stop."""
        return self.stop_reason is not None

    @property
    def stop_reason(self) -> str | None:
        """Why to stop, or None."""
        if self.lost:
            return "its lease was lost"
        now = clock()
        if self.deadline is not None and now >= self.deadline:
            return f"timed out after {self.timeout:g} seconds"
        if now >= self.trusted_until:
            return "its lease could not be extended in time"
        return "cancelled on request" if self.cancel_requested else None

    def interrupt(self) -> None:
        """Have a coroutine stop if it should; a thread must look by itself."""
        if (look := self.look) is not None:
            look()

    def progress(self, value: Any) -> None:
        """Have the heartbeat send the value."""
        self.news = encode(value)
        self._report(self)

    def step(self, name: str, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return what is recorded for a step; else do it, and record what comes of it."""
        if self._recorded is None:
            recorded = dict(self._ask(steps.recorded(self)))
            if self._recorded is None:  # another step, at the same time, may be done already
                self._recorded = recorded
        if name not in self._recorded:
            self._check()
            value = work(*args, **kwargs)
            [(self._recorded[name],)] = self._ask(steps.record(self, name, value))
        return steps.read(self._recorded[name])

    async def step_async(
        self, name: str, work: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Do what ``step`` does, in a coroutine."""
        if self._recorded is None:
            recorded = dict(await self._ask_async(steps.recorded(self)))
            if self._recorded is None:  # another step, at the same time, may be done already
                self._recorded = recorded
        if name not in self._recorded:
            self._check()
            value = work(*args, **kwargs)
            if isawaitable(value):
                value = await value
            [(self._recorded[name],)] = await self._ask_async(steps.record(self, name, value))
        return steps.read(self._recorded[name])

    def sleep(self, name: str, delay: timedelta | float) -> None:
        """Return when the time has come; else hand the job back."""
        self._ask(steps.sleep(self, name, delay))

    async def sleep_async(self, name: str, delay: timedelta | float) -> None:
        """Do what ``sleep`` does, in a coroutine."""
        await self._ask_async(steps.sleep(self, name, delay))

    def wait_for(self, event: str, *, timeout: timedelta | float, step: str | None = None) -> Any:
        """Return the payload of an event; else hand the job back."""
        return steps.read_event(event, self._ask(steps.wait(self, event, timeout, step)))

    async def wait_for_async(
        self, event: str, *, timeout: timedelta | float, step: str | None = None
    ) -> Any:
        """Do what ``wait_for`` does, in a coroutine."""
        rows = await self._ask_async(steps.wait(self, event, timeout, step))
        return steps.read_event(event, rows)

    def parents(self) -> list[Parent]:
        """Return what became of the jobs on which this one depends."""
        return steps.read_parents(self._ask(steps.parents(self)))

    async def parents_async(self) -> list[Parent]:
        """Do what ``parents`` does, in a coroutine."""
        return steps.read_parents(await self._ask_async(steps.parents(self)))

    @property
    def next(self) -> Graph:
        """Jobs to enqueue with a finish that succeeds."""
        if self._next is None:
            self._next = Graph()
        return self._next

    def write_next(self) -> str | None:
        """Return the jobs of ``next`` as the database takes them, or None if there are none.

        Raises:
            ValueError: they cannot be written, or are too many.
        """
        if not self._next:
            return None
        with sending(None, None, number=len(self._next)) as span:
            text = self._next.document(span)
        size = len(text.encode())
        if size > steps.LONGEST_NEXT:
            raise ValueError(f"{size} bytes of JSON are more than {steps.LONGEST_NEXT}")
        return text

    def _ask(self, call: Call) -> steps.Rows:
        clerk = self._check()
        rows = clerk.ask(self, call)
        self._check_place()
        return rows

    async def _ask_async(self, call: Call) -> steps.Rows:
        clerk = self._check()
        rows = await clerk.ask_async(self, call)
        self._check_place()
        return rows

    def _check(self) -> Clerk:
        """Refuse what an attempt asks for that no longer counts."""
        self._check_place()
        if self.lost or clock() >= self.trusted_until:
            raise LeaseLost(f"the lease of job {self.id} was lost, or could not be extended")
        if self._clerk is None:
            raise RuntimeError("no worker runs this job")
        return self._clerk

    def _check_place(self) -> None:
        if self.away is not None:
            raise HandedBack(f"job {self.id} was handed back")
