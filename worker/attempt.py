"""The worker's ledger of one attempt, from its claim until the database knows how it ended."""

from collections.abc import Callable
from datetime import timedelta
from sys import getsizeof
from typing import Any

from rota.worker.clock import clock
from rota.worker.job import Job
from rota.worker.values import encode


class Attempt(Job):
    """A job in our hands.

    It is the very object that the handler gets, since a second one for each job would be felt;
    what a handler may use of it stands in ``Job``.
    """

    __slots__ = (
        "_report",
        "cancel_requested",
        "deadline",
        "error",
        "handed_back",
        "if_known",
        "leased_at",
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
    ) -> None:
        """Take a row of the claim, when that was asked for, and who is to be told of news."""
        super().__init__(row)
        self._report = report
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
