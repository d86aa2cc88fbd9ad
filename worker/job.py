"""What a handler sees: ``@task``, ``Job``, and the two exceptions that say how to go on."""

import inspect
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import clock_gettime  # as it is now, whatever a module makes of it
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.desk import Desk

Handler = Callable[["Job"], Any]

LONGEST_ERROR = 8_000  # characters; the database cuts at 10,000
LONGEST_RESULT = 1_000_000  # bytes of JSON
FRAMES = 15  # of a traceback, the innermost
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

registry: dict[str, Handler] = {}
coroutines: set[str] = set()  # the tasks whose handlers are coroutine functions

# Time that goes on while this process, or the machine, is suspended.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Return seconds on a clock that nobody can set; only differences mean something."""
    return clock_gettime(_CLOCK)


def task(name: str) -> Callable[[Handler], Handler]:
    """Register a function as the handler of the jobs whose task is ``name``.

    A plain function runs in a thread of its own. It is told to stop by ``Job.cancelled``, and
    nothing but itself can stop it.

    An ``async def`` runs on the event loop that all such handlers of a process share, hundreds at
    one time if ``--concurrency`` allows that. It is stopped with ``asyncio.CancelledError`` when
    its timeout has passed, when somebody cancels the job, and when its lease is lost. While it
    computes, or waits in a call that is not awaited, the others stand still, though no lease is
    lost for that; ``await asyncio.to_thread(...)`` keeps such a call out of their way.

    Raises:
        ValueError: another function handles that task already.
    """

    def register(handler: Handler) -> Handler:
        if registry.setdefault(name, handler) is not handler:
            raise ValueError(f"task {name!r} has a handler already: {registry[name]}")
        if inspect.iscoroutinefunction(handler):
            coroutines.add(name)
        return handler

    return register


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


class Job:
    """One attempt at a job.

    Attributes:
        id: the job's id, the same in every attempt: use it as idempotency key.
        task: the name under which the handler is registered.
        queue: the queue that the job came from.
        attempt: 1 at the first try.
        max_retries: how many tries may follow the first.
        timeout: seconds that the attempt may take, or None.
        scheduled_for: the slot that a run of a schedule stands for, be it late, a retry or part of
            a backfill; of another job the time for which it was enqueued.
        token: proof of this attempt's lease, for ``rota.hold_lease`` and ``rota.finish_job``. A
            handler that finishes its own job must return the very result that it passed there.
    """

    __slots__ = (
        "_desk",
        "_payload",
        "_slot",
        "attempt",
        "cancel_requested",
        "deadline",
        "error",
        "handed_back",
        "id",
        "if_known",
        "leased_at",
        "look",
        "lost",
        "max_retries",
        "news",
        "news_delay",
        "news_due",
        "queue",
        "result",
        "result_size",
        "retry",
        "retry_in",
        "seconds",
        "size",
        "started_at",
        "task",
        "timeout",
        "token",
        "trusted_until",
    )

    def __init__(
        self,
        desk: "Desk",
        leased_at: float,
        trusted_until: float,
        row: tuple[int, str, str, str, str, int, int, float | None, float],
    ) -> None:
        """Take a row of the claim, which may say more; see ``worker.claimer``."""
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
            *_,
        ) = row
        self._desk = desk
        self.size = sys.getsizeof(self._payload)  # bytes of memory

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
    def scheduled_for(self) -> datetime:
        """The time that this run stands for, in UTC."""
        return EPOCH + timedelta(seconds=self._slot)

    @property
    def cancelled(self) -> bool:
        """Whether to stop: somebody asked for it, or this attempt no longer counts.

        It no longer counts when its timeout has passed, when its lease was lost, and when the
        lease could not be extended for so long that it may have been lost.
        """
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
        self.news = encode(value)
        self._desk.report_progress(self)


_decoder = json.JSONDecoder()
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_nul = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def encode(value: Any) -> str:
    """Return the value as JSON that PostgreSQL's jsonb takes.

    Raises:
        ValueError: it holds what jsonb cannot: NaN, NUL, half a surrogate pair, an object that is
            not JSON, more than a megabyte, or a thousand levels.
    """
    try:
        text = _encoder.encode(value)
        size = len(text.encode())
    except RecursionError as error:
        raise ValueError("nested too deeply, or within itself") from error
    except UnicodeEncodeError as error:
        raise ValueError("half a surrogate pair is not a character") from error
    except TypeError as error:
        raise ValueError(str(error)) from error
    if size > LONGEST_RESULT:
        raise ValueError(f"{size} bytes of JSON are more than {LONGEST_RESULT}")
    if "\\u0000" in text and _nul.search(text):
        raise ValueError("PostgreSQL stores no NUL character")
    return text


def storable(text: str) -> str:
    """Return text that PostgreSQL can store: cut in its middle, NUL and surrogates escaped."""
    text = str.__str__(text)  # a plain one, also of a subclass with methods of its own
    if len(text) > LONGEST_ERROR:
        half = LONGEST_ERROR // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


def describe(error: BaseException) -> str:
    """Return the traceback, from the handler on and shortened, as an attempt's error.

    A handler's exception class may do anything when it is read, which is code of the handler's
    still: raise again, also what ends a thread or a process. Then its name is all there is.
    """
    try:
        handlers_own = error.__traceback__ and error.__traceback__.tb_next
        lines = traceback.format_exception(type(error), error, handlers_own, limit=-FRAMES)
        return storable("".join(lines).rstrip())
    except BaseException:
        return f"{_name(error)}, whose text cannot be read"


def text_of(error: BaseException) -> str:
    """Return the text of an exception, without its traceback, as far as it can be read."""
    try:
        return storable(str(error) if type(error) is ValueError else f"{_name(error)}: {error}")
    except BaseException:
        return f"{_name(error)}, whose text cannot be read"


def _name(error: BaseException) -> str:
    return type.__dict__["__name__"].__get__(type(error))  # whatever its metaclass says
