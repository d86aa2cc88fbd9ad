"""Requests that wait for a job: for one that can be claimed, or for one to end.

Such a request holds no thread and no connection to the database. It was asked once and had nothing
to say; it is asked again, from its beginning, when that may have changed, and a last time when its
time is up. At a stop it is given the answer that it had. Who is asked again is decided here, in one
thread with one connection for all of them.

How it learns of jobs to claim is what a worker does (docs/inside.md, "Waking"): it holds the locks
by which a session says that it sleeps, and is notified. Whoever began to wait looks once more, and
at the moments when those may commit who asked before whether anybody sleeps. It asks when the next
job is due. And once a second the first who waits for a queue looks whatever happens, which is all
that is left behind a pooler. Of those who wait for a queue one looks at a time, the one that has
waited longest, and calls the next when it found a job: so they are served in order, many jobs wake
many, and one job wakes one. One of each principal, that is: of who may not claim from a queue, or
lies behind a wall, others learn nothing and are not kept waiting.

Nobody is told about a job that ends. So all that are waited for are looked at every 50 ms, in one
statement.

What is decided here is only who looks, and when: rights and fences are those of the request, which
is asked as it was the first time.
"""

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg
from flask import g

from rota.app.database import BECOME_API, Database
from rota.db.gateway import call

# In the environment of a request: whether the server lets it wait (it sets that), for what it
# waits (the application sets that), and whether what it was given did not reach its client.
CAN_WAIT = "rota.can_wait"
WAITS_FOR = "rota.waits_for"
UNDELIVERED = "rota.undelivered"
BEGAN = "rota.began"  # its place among those that wait, and when its time is up

POLL_SECONDS = 1.0
QUICK_LOOKS = (0.005, 0.05, 0.25)  # seconds after falling asleep, for jobs that were committing
KEPT_SECONDS = 2.0  # that we sleep for a queue when nobody waits for it any more
ENDED_SECONDS = 0.05  # between two looks at the jobs whose end is waited for
LONGEST_REST = 3600.0  # seconds
LONGEST_PAUSE = 30.0  # seconds, before the database is tried again

log = logging.getLogger("rota.api")
_places = count(1)


@dataclass
class Wait:
    """A request that waits.

    Args:
        queues: from which it wants to claim; or
        job_id: whose end it waits for.
        place: among all that wait: the lowest is served first.
        until: when its time is up, by the clock ``time.monotonic``.
        asked_at: when it was asked the last time, by the same clock.
        principal: for whom it asks.
    """

    queues: frozenset[str]
    job_id: int | None
    place: int
    until: float
    asked_at: float
    principal: str | None
    again: Callable[[], None] = lambda: None  # asks it once more
    give_up: Callable[[], None] = lambda: None  # lets it have the answer that it had


def wait_or_answer(
    environ: dict[str, Any],
    seconds: float,
    asked_at: float,
    queues: Iterable[str] = (),
    job_id: int | None = None,
) -> None:
    """Have a request wait that has nothing to say yet, if its server can and its time is not up."""
    place, until = environ.setdefault(BEGAN, (next(_places), asked_at + seconds))
    if environ.get(CAN_WAIT) and until > time.monotonic():
        environ[WAITS_FOR] = Wait(
            frozenset(queues), job_id, place, until, asked_at, g.get("principal")
        )


@dataclass
class Queue:
    """What is known of a queue from which somebody wants to claim."""

    looks: list[float] = field(default_factory=list)  # when the first who wait look
    notified_at: float = 0.0
    polled_at: float = 0.0
    wanted_at: float = 0.0

    def is_over(self, now: float) -> bool:
        """Tell whether nobody has waited for it for a while, and not only been asked again."""
        return now >= self.wanted_at + KEPT_SECONDS


class Waiting:
    """The thread that decides who is asked again; it begins with the first request that waits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._claims: dict[int, Wait] = {}  # by their places
        self._ends: dict[int, Wait] = {}
        self._queues: dict[str, Queue] = {}
        self._looking: dict[tuple[str | None, str], int] = {}  # who was called, by place
        self._ask_due = False
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._bell, self._our_end = os.pipe()
        os.set_blocking(self._our_end, False)
        os.set_blocking(self._bell, False)
        self._conn: psycopg.Connection | None = None
        self._asleep: list[str] = []  # the queues for which we are notified
        self._try_again_at = 0.0
        self._pause = 0.1
        self._ended_at = 0.0

    def add(self, wait: Wait) -> None:
        """Let a request wait."""
        with self._lock:
            if self._stopped:
                wait.give_up()
                return
            if wait.job_id is not None:
                self._ends[wait.place] = wait
            else:
                self._claims[wait.place] = wait
                self._ask_due = True
                self._is_back(wait)
                for name in wait.queues:
                    now = time.monotonic()
                    queue = self._queues.setdefault(name, Queue(polled_at=now, wanted_at=now))
                    if queue.notified_at >= wait.asked_at:
                        queue.looks.append(0.0)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="waiting", daemon=True)
                self._thread.start()
        self._ring()

    def forget(self, wait: Wait) -> None:
        """Never ask a request again: its client has hung up."""
        with self._lock:
            for waits in (self._claims, self._ends):
                if waits.get(wait.place) is wait:
                    del waits[wait.place]
        self._ring()

    def done(self, wait: Wait) -> None:
        """Have the next one look: this one that was called is answered, and waits no more."""
        with self._lock:
            self._is_back(wait)
            for name in wait.queues:
                if first := self._firsts(name).get(wait.principal):
                    self._call(first)

    def stop(self) -> None:
        """Let all that wait have the answers that they had, and nobody wait any more."""
        with self._lock:
            self._stopped = True
            for wait in [*self._claims.values(), *self._ends.values()]:
                wait.give_up()
            self._claims.clear()
            self._ends.clear()
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._our_end, b"!")

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._turn()
            except psycopg.Error as error:
                self._hang_up()
                log.warning(
                    "cannot hear of jobs; requests that wait look once a second",
                    extra={"fields": {"sqlstate": error.sqlstate, "error": type(error).__name__}},
                )
                self._try_again_at = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            except Exception:
                log.exception("the thread for requests that wait goes on after an error")
                time.sleep(1)
        self._hang_up()

    def _turn(self) -> None:
        self._call_due()
        if self._can_talk():
            self._sleep_for(sorted(self._queues))
            self._look_ahead()
            self._look_for_ended()
        self._wait(self._seconds_until_next())
        self._take_in()

    def _call_due(self) -> None:
        """Let go those whose time is up, and call whoever is to look now."""
        now = time.monotonic()
        with self._lock:
            for waits in (self._claims, self._ends):
                for wait in [wait for wait in waits.values() if wait.until <= now]:
                    del waits[wait.place]
                    wait.again()
            for wait in self._claims.values():
                for name in wait.queues:
                    self._queues[name].wanted_at = now
            for name in [name for name, queue in self._queues.items() if queue.is_over(now)]:
                del self._queues[name]
            called: set[tuple[str | None, frozenset[str]]] = set()
            for name, queue in self._queues.items():
                due = any(moment <= now for moment in queue.looks)
                queue.looks = [moment for moment in queue.looks if moment > now]
                if not due and now < queue.polled_at + POLL_SECONDS:
                    continue
                queue.polled_at = now
                self._ask_due = True
                for principal, first in self._firsts(name).items():
                    if (principal, first.queues) not in called:
                        called.add((principal, first.queues))
                        self._call(first)

    def _seconds_until_next(self) -> float:
        """Return for how long nothing is to be done unless something happens."""
        now = time.monotonic()
        with self._lock:
            moments = [wait.until for wait in (*self._claims.values(), *self._ends.values())]
            for queue in self._queues.values():
                moments += [*queue.looks, queue.polled_at + POLL_SECONDS]
                moments.append(queue.wanted_at + KEPT_SECONDS)
            if self._ends:
                moments.append(self._ended_at + ENDED_SECONDS)
        return max(0.0, min(moments, default=now + LONGEST_REST) - now)

    def _firsts(self, name: str) -> dict[str | None, Wait]:
        """Return the one that has waited longest for a queue, of each principal."""
        latest_first = sorted(self._claims.items(), reverse=True)
        return {wait.principal: wait for _, wait in latest_first if name in wait.queues}

    def _call(self, wait: Wait) -> None:
        del self._claims[wait.place]
        self._looking |= {(wait.principal, name): wait.place for name in wait.queues}
        wait.again()

    def _is_back(self, wait: Wait) -> None:
        for line in [(wait.principal, name) for name in wait.queues]:
            if self._looking.get(line) == wait.place:
                del self._looking[line]

    def _wait(self, seconds: float) -> None:
        """Wait for this time, a notification, or a change of who waits."""
        files: list[Any] = [self._bell]
        if self._conn is not None:
            files.append(self._conn)
        readable, _, _ = select.select(files, [], [], seconds)
        if self._bell in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 4096)

    def _take_in(self) -> None:
        """Call the first who waits for each queue of which a notification has come."""
        if self._conn is None:
            return
        self._conn.pgconn.consume_input()
        while (notify := self._conn.pgconn.notifies()) is not None:
            self._hear(notify.extra.decode())

    def _hear(self, name: str) -> None:
        with self._lock:
            self._ask_due = True  # it may be due in a moment only
            queue = self._queues.get(name)
            if queue is not None:
                queue.notified_at = time.monotonic()
                for principal, first in self._firsts(name).items():
                    if (principal, name) not in self._looking:
                        self._call(first)  # who looks already looks again, or calls the next

    def _can_talk(self) -> bool:
        """Connect, if there is somebody to connect for."""
        if self._conn is not None and not self._conn.closed:
            return True
        if not (self._claims or self._ends) or time.monotonic() < self._try_again_at:
            return False
        self._conn = self._database.connect()
        self._conn.execute(BECOME_API, [False])
        self._conn.add_notify_handler(lambda notification: self._hear(notification.payload))
        self._pause = 0.1
        if not self._conn.pooled:
            self._conn.execute("listen rota_jobs")
        return True

    def _hang_up(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = None
        self._asleep = []

    def _sleep_for(self, wanted: list[str]) -> None:
        """Be notified of jobs in these queues from now on, and of no others."""
        if wanted == self._asleep or self._conn.pooled:
            return
        began = set(wanted) - set(self._asleep)
        if wanted and not began:
            return  # fewer than before: that changes with the next that is new, or with the last
        if wanted and not call(self._conn, "begin_sleep", queues=wanted)[0]["begin_sleep"]:
            return  # another session has one of the locks: there is the poll
        if self._asleep:
            call(self._conn, "end_sleep", queues=self._asleep)
        self._asleep = wanted
        now = time.monotonic()
        with self._lock:
            for name in began & self._queues.keys():
                self._queues[name].looks += [now, *(now + seconds for seconds in QUICK_LOOKS)]

    def _look_ahead(self) -> None:
        """Note when the next jobs are due for which somebody waits."""
        with self._lock:
            names, self._ask_due = list(self._queues) if self._ask_due else [], False
        if not names:
            return
        due = self._conn.execute(
            """
            select q.name, extract(epoch from d.due)::float8
            from unnest(%s::text[]) as q(name)
            cross join lateral rota.next_due_in(queues => array[q.name], within => %s) as d(due)
            where d.due is not null
            """,
            [names, "2 seconds"],
        ).fetchall()
        now = time.monotonic()  # after the answer: who looks too early would find nothing
        with self._lock:
            for name, seconds in due:
                if name in self._queues:
                    self._queues[name].looks.append(now + seconds)

    def _look_for_ended(self) -> None:
        """Ask those again whose jobs have ended."""
        now = time.monotonic()
        with self._lock:
            ids = {wait.job_id for wait in self._ends.values()}
        if not ids or now < self._ended_at + ENDED_SECONDS:
            return
        self._ended_at = now
        rows = call(self._conn, "ended_jobs", job_ids=list(ids))
        ended = {row["ended_jobs"] for row in rows}
        with self._lock:
            for wait in [wait for wait in self._ends.values() if wait.job_id in ended]:
                del self._ends[wait.place]
                wait.again()
