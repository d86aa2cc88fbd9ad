"""The jobs of a database that this process holds, from their claim to the answer to their finish.

Threads share these collections without a lock of our own: each step (put, get, add, discard,
remove, update) is atomic in the interpreter, and no decision needs two of them at once. A count
that several threads change has a lock.

    claimer ──► ready ──► crew of handlers ──► done ──► finisher
                 └──────── held, extended by the heartbeat ─┘

Of several databases each has a desk of its own; places and the queue to them are the floor's.
"""

import os
import select
import threading
from datetime import timedelta
from math import inf
from queue import SimpleQueue
from sys import getsizeof
from time import sleep  # as it is now, whatever a module makes of it
from typing import TYPE_CHECKING

from rota.worker.attempt import Attempt
from rota.worker.clock import clock
from rota.worker.descriptor import Descriptor
from rota.worker.floor import Floor
from rota.worker.log import log

if TYPE_CHECKING:
    from rota.worker.metrics import Metrics

MOST_RESULTS = 32 * 2**20  # bytes that the database was not told; then no more jobs are started


class Bell:
    """Wakes a thread that waits for it, or for one of some file descriptors."""

    def __init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self._reader, self._writer = (Descriptor(number) for number in os.pipe())
        os.set_blocking(self._reader.number, False)
        os.set_blocking(self._writer.number, False)

    def ring(self) -> None:
        """Wake the waiting thread, or the next one to wait."""
        writer = self._writer
        if not writer.intact:  # a handler has closed it; who waits looks again within a second
            return
        try:
            os.write(writer.number, b"!")
        except BlockingIOError:
            return  # it has been rung 65,536 times and nobody came yet

    def wait(self, seconds: float, also: int | None = None) -> bool:
        """Wait until it rings or ``also`` is readable; return whether ``also`` is.

        Polling knows whole milliseconds only; what is left of one is slept.
        """
        ends_at = clock() + seconds
        if not (self._reader.intact and self._writer.intact):
            self._reader.close()
            self._writer.close()
            self._open()
        reader = self._reader.number
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        if also is not None:
            poll.register(also, select.POLLIN)
        events = dict(poll.poll(int(max(0.0, seconds) * 1000)))
        if not events:
            sleep(min(0.001, max(0.0, ends_at - clock())))
        if events.get(reader) == select.POLLIN:
            os.read(reader, 65536)
        return also in events


class Desk:
    """The jobs of a database that this process holds, and the signals between its threads.

    Args:
        limits: of those queues that have one of their own in this process.
        floor: which the desks of several databases share.
    """

    def __init__(self, limits: dict[str, int], floor: Floor | None = None) -> None:
        self.floor = floor = floor or Floor(limits, 1)
        floor.desks.append(self)
        self.ready = floor.ready
        self.of_limited_queue = floor.of_limited_queue
        self.stopping = floor.stopping
        self.closing = floor.closing
        self.time_limits = floor.time_limits

        self.done: SimpleQueue[Attempt | None] = SimpleQueue()  # ended, the database not told yet
        self.in_hand: set[Attempt] = set()  # claimed, and their handlers have not returned
        self.running: set[Attempt] = set()  # started, and how they end is not decided yet
        self.held: set[Attempt] = set()  # all whose lease must be extended
        self.timed: set[Attempt] = set()  # running ones with a deadline
        self.with_news: set[Attempt] = set()  # those whose progress was not sent yet
        self.overrun: set[Attempt] = set()  # decided, and their handlers hold their places still

        self.room = Bell()  # for the claimer
        self.low_water = -1  # ring for room when no more jobs than this are in hand, of all desks
        self.low_bytes = -1  # or when no more bytes than this are held
        self.prefetch = 0  # jobs that may wait here for a handler
        self.asked = 0  # jobs that a claim asks for
        self.asked_at = 0.0
        self.needs_until = 0.0  # for so long it is known that there is more to claim
        self.waits_since = inf  # for room
        self._payloads_taken = 0  # bytes; changed by the claimer
        self._payloads_forgotten = 0  # by the finisher
        self._results_returned = 0  # bytes; changed by handlers' threads
        self._results_told = 0  # by the finisher
        self._results = threading.Condition()  # for handlers to go on
        self.results_wait = False  # too many were not told to the database
        self.attention = threading.Event()  # for the heartbeat: there is news

    @property
    def metrics(self) -> "Metrics | None":
        """Where to count, if anywhere."""
        return self.floor.metrics

    def taken(self, lately: float) -> int:
        """Return how many jobs are in hand, or were asked for since then."""
        return len(self.in_hand) + (self.asked if self.asked_at > lately else 0)

    @property
    def bytes_held(self) -> int:
        """What payloads, and results that the database was not told yet, take in memory."""
        return self._payloads_taken - self._payloads_forgotten + self._untold_results

    @property
    def bytes_untold(self) -> int:
        """What of that belongs to jobs that have ended."""
        return self.bytes_held - sum([job.size for job in list(self.in_hand)])

    @property
    def _untold_results(self) -> int:
        return self._results_returned - self._results_told

    def take(self, jobs: list[Attempt]) -> int:
        """Take charge of jobs just claimed; return the bytes that their payloads take."""
        size = sum([job.size for job in jobs])
        self._payloads_taken += size
        for job in jobs:
            job.desk = self
        self.held.update(jobs)
        self.in_hand.update(jobs)
        if self.of_limited_queue:
            for job in jobs:
                self.of_limited_queue.get(job.queue, set()).add(job)
        return size

    def give_up(self, job: Attempt) -> None:
        """Note that nothing runs for this job here any more."""
        self.in_hand.discard(job)
        if self.overrun:
            self.overrun.discard(job)
        if self.of_limited_queue:
            self.of_limited_queue.get(job.queue, set()).discard(job)
        self.floor.has_room()

    def wait_for_results(self, job: "Attempt | None" = None) -> None:
        """Wait, before a job is started, while too many results were not told to the database.

        Its lease is extended meanwhile. Who stops does not wait for this, nor does a job that has
        lost its lease, as it does where the database is away.
        """
        with self._results:
            while self.results_wait and not self.stopping.is_set():
                if job is not None and job.cancelled:
                    return
                self._results.wait(1.0)

    def start(self, job: Attempt) -> None:
        """Note that the handler starts."""
        job.started_at = clock()
        self.running.add(job)
        if job.timeout is not None:
            job.deadline = job.started_at + job.timeout
            self.timed.add(job)
            self.time_limits.set()

    def settle(
        self,
        job: Attempt,
        error: str | None = None,
        result: str | None = None,
        retry_in: timedelta | None = None,
        retry: bool = True,
        handed_back: timedelta | None = None,
        following: str | None = None,
    ) -> bool:
        """Decide how a running attempt ends; return False if that was decided before.

        The handler's return, its timeout and the end of the grace time may come at one time: the
        one that takes the job out of ``running`` decides.
        """
        try:
            self.running.remove(job)
        except KeyError:
            return False
        job.seconds = clock() - job.started_at
        job.error = error
        job.result = result
        job.following = following
        if result is not None or following is not None:
            job.result_size = getsizeof(result) + getsizeof(following)
            with self._results:
                self._results_returned += job.result_size
                self.results_wait = self._untold_results > MOST_RESULTS
        job.retry_in = retry_in
        job.retry = retry
        job.handed_back = handed_back
        if job.timeout is not None:
            self.timed.discard(job)
        self.done.put(job)
        return True

    def time_out(self, job: Attempt) -> None:
        """Fail an attempt whose time is over, unless it has ended.

        Its handler is told, what it returns is discarded, and until then it occupies its place.
        """
        self.overrun.add(job)  # first, so that give_up comes after it
        if not self.settle(job, error=f"timed out after {job.timeout:g} seconds"):
            self.overrun.discard(job)
            return
        log.warning(
            "timed out; its place stays occupied until the handler returns",
            extra={"fields": {"job_id": job.id, "task": job.task}},
        )

    def part(self, job: Attempt, outcome: str) -> None:
        """Note that its handler has handed a job back, as the database knows; the place is held."""
        job.away = outcome
        self.held.discard(job)
        try:
            self.running.remove(job)
        except KeyError:
            return  # it had timed out, say; who tells that is told that it is late
        if job.timeout is not None:
            self.timed.discard(job)
        job.seconds = clock() - job.started_at
        job.handed_back = timedelta()
        self.done.put(job)

    def lose(self, job: Attempt) -> None:
        """Note that the lease is lost; its handler holds its place until it returns.

        A heartbeat may find a job gone that its handler is about to hand back, or has.
        """
        if job.leaving or job.away is not None:
            return
        if self.metrics is not None and not job.lost:
            self.metrics.lost()
        job.lost = True
        if job not in self.running:
            return
        self.overrun.add(job)
        if job not in self.in_hand:  # it returned meanwhile
            self.overrun.discard(job)
        log.warning(
            "the lease was lost, what its handler returns will be discarded",
            extra={"fields": {"job_id": job.id, "task": job.task}},
        )

    def hand_back(
        self,
        job: Attempt,
        reason: str,
        delay: timedelta = timedelta(),
        if_known: timedelta | None = None,
    ) -> None:
        """Release a job that was not started; its attempt will not be charged.

        Args:
            job: one in hand.
            reason: what people will read.
            delay: after which it will be due again.
            if_known: the same, where the reason is that we have no handler for its task, and some
                other worker has one.
        """
        job.error = reason
        job.handed_back = delay
        job.if_known = if_known
        self.done.put(job)
        self.give_up(job)

    def forget(self, jobs: list[Attempt]) -> None:
        """Drop jobs that the database has been told about."""
        self.held.difference_update(jobs)
        self._payloads_forgotten += sum([job.size for job in jobs])
        if self._untold_results:
            with self._results:
                self._results_told += sum([job.result_size for job in jobs])
                self.results_wait = self._untold_results > MOST_RESULTS
                self._results.notify_all()
        if self.bytes_held <= self.low_bytes:
            self.room.ring()

    def drop(self, job: Attempt) -> None:
        """Let go of a job whose end cannot be told; its lease runs out, and its attempt is lost."""
        self.running.discard(job)
        self.timed.discard(job)
        self.forget([job])

    def report_progress(self, job: Attempt) -> None:
        """Have the heartbeat send this job's news."""
        if job not in self.with_news:
            self.with_news.add(job)
            self.attention.set()
