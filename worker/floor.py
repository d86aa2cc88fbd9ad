"""What the desks of one process have in common, one desk a database: places, and a queue to them.

Where there are several databases their jobs share the places by need. A database that has more than
enough may take all that no other needs; one that comes to need some gets its share as handlers
return. A database that does not answer needs none, so it costs the others nothing.
"""

import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from rota.worker.clock import clock

if TYPE_CHECKING:
    from rota.worker.attempt import Attempt
    from rota.worker.desk import Desk
    from rota.worker.metrics import Metrics

SOON = 0.1  # seconds in which the jobs that a claim asked for may come; then others may claim
NEED = 1.0  # seconds for which a database that has more jobs is known to


class Floor:
    """The places of a process, and what waits for one.

    Args:
        limits: of those queues that have one of their own in this process.
        concurrency: how many places there are.
    """

    def __init__(self, limits: dict[str, int], concurrency: int) -> None:
        self.concurrency = concurrency
        self.desks: list[Desk] = []
        self.ready: SimpleQueue[Attempt | None] = SimpleQueue()  # claimed, not started
        self.limits = limits
        self.of_limited_queue: dict[str, set[Attempt]] = {queue: set() for queue in limits}
        self.metrics: Metrics | None = None  # none unless somebody wants some
        self.stopping = threading.Event()  # no new claims
        self.closing = threading.Event()  # no more patience with the database
        self.time_limits = threading.Event()  # for the watch: there is one more
        self._asked_of = dict.fromkeys(limits, 0)  # by claims that are under way
        self._asking = threading.Lock()
        self._queued = 0  # jobs for the handlers, in all
        self._batches: deque[tuple[int, float]] = deque()  # _queued after a claim, and when
        self._counting = threading.Lock()

    def taken(self) -> int:
        """Return how many jobs are in hand, or are about to be."""
        if len(self.desks) == 1:
            return len(self.desks[0].in_hand)
        lately = clock() - SOON
        return sum([desk.taken(lately) for desk in self.desks])

    def room(self, desk: "Desk") -> tuple[int, int]:
        """Return how many jobs more this database may have in hand now; less than 1 if none.

        And how many of its jobs may wait here: none, where another has less than its share.
        """
        if len(self.desks) == 1:
            return self.concurrency + desk.prefetch - len(desk.in_hand), desk.prefetch
        lately, now = clock() - SOON, clock()
        others = [(other, other.taken(lately)) for other in self.desks if other is not desk]
        share = self.concurrency // (1 + sum(other.needs_until > now for other, _ in others))
        room = self.concurrency + desk.prefetch - desk.taken(lately)
        is_kept = False  # some is kept for one that has less than its share
        for other, its_own in others:
            room -= its_own
            if other.needs_until <= now:
                room += min(other.prefetch, its_own)
                continue
            first = other.waits_since < desk.waits_since and not its_own
            lacking = max(share, int(first)) - its_own
            is_kept = is_kept or lacking > 0
            room += min(other.prefetch, -lacking) if lacking < 0 else -lacking
        return (room - desk.prefetch, 0) if is_kept else (room, desk.prefetch)

    def has_room(self) -> None:
        """Wake the claimers for whom there are few enough jobs in hand now."""
        for desk in self.desks:
            if desk.low_water >= 0 and self.taken() <= desk.low_water:
                desk.room.ring()

    def has_less_need(self) -> None:
        """Wake the claimers that wait for room: some is kept for nobody any more."""
        for desk in self.desks:
            if desk.waits_since < inf:
                desk.room.ring()

    def room_of(self, queue: str) -> int:
        """Return how many jobs more of a limited queue may be in hand."""
        return self.limits[queue] - len(self.of_limited_queue[queue]) - self._asked_of[queue]

    def ask_of(self, queues: Iterable[str], most: int) -> int:
        """Return how many jobs may be claimed of these limited queues, at most so many.

        So many are taken for claimed until they are given back.
        """
        with self._asking:
            granted = max(0, min([most, *map(self.room_of, queues)]))
            for queue in queues:
                self._asked_of[queue] += granted
            return granted

    def give_back(self, queues: Iterable[str], granted: int) -> None:
        """Say that a claim is over, and its jobs are in hand."""
        with self._asking:
            for queue in queues:
                self._asked_of[queue] -= granted
        if granted and len(self.desks) > 1:
            self.has_less_need()

    def line_up(self, jobs: "list[Attempt]") -> None:
        """Have jobs started, one after the other, when there is a place."""
        with self._counting:
            self._queued += len(jobs)
            self._forget_started()
            self._batches.append((self._queued, clock()))
            for job in jobs:
                self.ready.put(job)

    def longest_wait(self) -> float:
        """Return for how long the oldest job that was not started has waited, in seconds."""
        with self._counting:
            self._forget_started()
            return clock() - self._batches[0][1] if self._batches else 0.0

    def _forget_started(self) -> None:
        started = self._queued - self.ready.qsize()
        while self._batches and self._batches[0][0] <= started:
            self._batches.popleft()

    def hand_back_ready(self, reason: str) -> int:
        """Release all jobs that were not started; return how many."""
        count = 0
        with suppress(Empty):
            while True:
                job = self.ready.get_nowait()
                if job is not None:
                    (job.desk or self.desks[0]).hand_back(job, reason)
                    count += 1
        return count
