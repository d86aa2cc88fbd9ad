"""What a handler sees: ``Job``, and the two exceptions that say how to go on."""

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

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
