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
many, and one job wakes one of each principal.

Nobody is told about a job that ends. So all that are waited for are looked at every 50 ms, in one
statement.

What is decided here is only who looks, and when: rights and fences are those of the request, which
is asked as it was the first time.
"""

import contextlib
import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg
from flask import g

from rota.app.database import Database, Session
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
LONGEST_PAUSE = 2.0  # seconds, before the database is tried again
LONGEST_TALK = 5.0  # seconds, after which a server that says nothing is given up
MOST_QUEUES = 1000  # for which requests may wait at a time: each is a lock in the database
MOST_OF_ONE = 250  # of them for one principal that has others beside it

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
        principal: for whom it asks. What one may not see is there for another all the same, so
            those of each form a line of their own.
    """

    queues: frozenset[str]
    job_id: int | None
    place: int
    until: float
    asked_at: float
    principal: str | None
    again: Callable[[], None] = lambda: None  # asks it once more
    give_up: Callable[[], None] = lambda: None  # lets it have the answer that it had
    shard: int = 0  # at which of several databases


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
        principal = g.get("principal")
        environ[WAITS_FOR] = Wait(frozenset(queues), job_id, place, until, asked_at, principal)


@dataclass
class Queue:
    """What is known of a queue from which somebody wants to claim."""

    looks: list[float] = field(default_factory=list)  # when the first who wait look
    notified_at: float = 0.0
    polled_at: float = 0.0
    wanted: dict[str | None, float] = field(default_factory=dict)  # when last, by principal

    def is_over(self, now: float) -> bool:
        """Tell whether nobody has waited for it for a while, and not only been asked again."""
        self.wanted = {who: at for who, at in self.wanted.items() if now < at + KEPT_SECONDS}
        return not self.wanted


class Waiting:
    """The thread that decides who is asked again; it begins with the first request that waits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._claims: dict[int, Wait] = {}  # by their places
        self._ends: dict[int, Wait] = {}
        self._queues: dict[str, Queue] = {}
        # Who was called, by place, for each queue and principal.
        self._looking: dict[tuple[str, str | None], int] = {}
        self._ask_due = False
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._bell, self._our_end = os.pipe()
        os.set_blocking(self._our_end, False)
        os.set_blocking(self._bell, False)
        self._conn: Session | None = None
        self._listens = False
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
                now = time.monotonic()
                for name in wait.queues:
                    queue = self._want(name, wait.principal, now)
                    if queue.notified_at >= wait.asked_at:
                        queue.looks.append(0.0)
            self._begin()
        self._ring()

    def make_room(self, queues: Iterable[str], principal: str | None) -> bool:
        """Tell whether a request may wait for these queues, too, which it is then about to.

        Anybody can make up names. So no principal has room for as many as all of them together.
        """
        names, now = set(queues), time.monotonic()
        with self._lock:
            its = {name for name, queue in self._queues.items() if principal in queue.wanted}
            if principal is not None and len(its | names) > MOST_OF_ONE:
                return False
            if len(self._queues.keys() | names) > MOST_QUEUES:
                return False
            has_new = not names <= self._queues.keys()
            for name in names:
                self._want(name, principal, now)
            self._begin()
        if has_new:
            self._ring()  # the thread forgets them, too, should the request not wait after all
        return True

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="waiting", daemon=True)
            self._thread.start()

    def _want(self, name: str, principal: str | None, now: float) -> Queue:
        queue = self._queues.setdefault(name, Queue(polled_at=now))
        queue.wanted[principal] = now
        return queue

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
                self._call_first(name, wait.principal)

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
        if self._can_connect():
            with self._database.bounded(self._conn, LONGEST_TALK):
                self._listen()
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
            firsts = self._firsts()
            for name, its_firsts in firsts.items():
                self._queues[name].wanted |= dict.fromkeys(its_firsts, now)
            for name in [name for name, queue in self._queues.items() if queue.is_over(now)]:
                del self._queues[name]
            for name, queue in self._queues.items():
                due = any(moment <= now for moment in queue.looks)
                queue.looks = [moment for moment in queue.looks if moment > now]
                if not due and now < queue.polled_at + POLL_SECONDS:
                    continue
                queue.polled_at = now
                self._ask_due = True
                for first in firsts.get(name, {}).values():
                    if first.place in self._claims:  # not called for another queue
                        self._call(first)

    def _seconds_until_next(self) -> float:
        """Return for how long nothing is to be done unless something happens."""
        now = time.monotonic()
        with self._lock:
            moments = [wait.until for wait in (*self._claims.values(), *self._ends.values())]
            for queue in self._queues.values():
                moments += [*queue.looks, queue.polled_at + POLL_SECONDS]
                moments += [at + KEPT_SECONDS for at in queue.wanted.values()]
            if self._ends:
                moments.append(max(self._ended_at + ENDED_SECONDS, self._try_again_at))
        return max(0.0, min(moments, default=now + LONGEST_REST) - now)

    def _firsts(self) -> dict[str, dict[str | None, Wait]]:
        """Return for each queue those that have waited longest, one of each principal."""
        firsts: dict[str, dict[str | None, Wait]] = {}
        for place in sorted(self._claims):
            wait = self._claims[place]
            for name in wait.queues:
                firsts.setdefault(name, {}).setdefault(wait.principal, wait)
        return firsts

    def _call_first(self, name: str, principal: str | None) -> None:
        places = [
            place
            for place, wait in self._claims.items()
            if name in wait.queues and wait.principal == principal
        ]
        if places:
            self._call(self._claims[min(places)])

    def _call(self, wait: Wait) -> None:
        del self._claims[wait.place]
        for name in wait.queues:
            self._looking[name, wait.principal] = wait.place
        wait.again()

    def _is_back(self, wait: Wait) -> None:
        for name in wait.queues:
            if self._looking.get((name, wait.principal)) == wait.place:
                del self._looking[name, wait.principal]

    def _wait(self, seconds: float) -> None:
        """Wait for this time, a notification, or a change of who waits."""
        files = select.poll()  # there may be more files than select() can count
        files.register(self._bell, select.POLLIN)
        if self._conn is not None:
            files.register(self._conn, select.POLLIN)
        files.poll(math.ceil(1000 * seconds))
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
                for principal, first in self._firsts().get(name, {}).items():
                    # Who looks already will look again, or call the next.
                    if (name, principal) not in self._looking:
                        self._call(first)

    def _can_connect(self) -> bool:
        """Connect, if there is somebody to connect for."""
        if self._conn is not None and not self._conn.closed:
            return True
        if not (self._claims or self._ends) or time.monotonic() < self._try_again_at:
            return False
        self._conn = self._database.connect()
        self._listens = False
        return True

    def _listen(self) -> None:
        """Be ready to be notified, on a new connection."""
        if self._listens:
            return
        self._conn.add_notify_handler(lambda notification: self._hear(notification.payload))
        if not self._conn.pooled:
            if self._conn.becomes_api:
                self._conn.execute("set role rota_api")
            self._conn.execute("listen rota_jobs")
        self._listens = True
        self._pause = 0.1

    @contextlib.contextmanager
    def _role(self) -> Iterator[None]:
        """Have the role in which to ask.

        Behind a pooler for one transaction: the next may come to another session, and ours is then
        somebody else's.
        """
        if not (self._conn.pooled and self._conn.becomes_api):
            yield
            return
        with self._conn.transaction():
            self._conn.execute("set local role rota_api")
            yield

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
                self._queues[name].notified_at = now  # for who asked before, and comes only now

    def _look_ahead(self) -> None:
        """Note when the next jobs are due for which somebody waits."""
        with self._lock:
            names, self._ask_due = list(self._queues) if self._ask_due else [], False
        if not names:
            return
        with self._role():
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
        with self._role():
            rows = call(self._conn, "ended_jobs", job_ids=list(ids))
        ended = {row["ended_jobs"] for row in rows}
        with self._lock:
            for wait in [wait for wait in self._ends.values() if wait.job_id in ended]:
                del self._ends[wait.place]
                wait.again()
