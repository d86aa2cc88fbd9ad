"""The thread that keeps the whole fleet well: shows that we live, recovers, tidies up."""

import random
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg

from rota.db.gateway import call
from rota.worker.clock import clock
from rota.worker.desk import Bell, Desk
from rota.worker.link import Connection, Link, Pause, Portion, advice
from rota.worker.log import log
from rota.worker.tasks import registry

ANNOUNCE_PERIOD = 30.0  # seconds
ANNOUNCE_AGAIN = 5.0  # seconds, at least, when what we would say has changed
RECOVER_BATCH = 1000  # jobs
LONG_RECOVERY = 2.0  # seconds; after one that took longer, less is asked for
EARLY = 3.0  # seconds after our start, in which the rest of a fleet may start: we look each second
MAINTAIN_PERIOD = 3600.0  # seconds
FORWARD_BATCH = 1000  # jobs
LONGEST_CHORE_PAUSE = 60.0  # seconds before a chore that failed is tried again, at most
LOOK_PERIOD = 1.0  # seconds between two looks at what cannot wake the thread that looks


class Chore:
    """Something that is done again and again; when it fails it is tried again later."""

    def __init__(self, name: str, work: Callable[[], float]) -> None:
        """Take what does it, and returns after how many seconds to do it again."""
        self.name = name
        self.work = work
        self.due = 0.0
        self.pause = Pause(LONGEST_CHORE_PAUSE)


class Upkeep:
    """The thread that shows that we live, takes back what dead workers held, and tidies up.

    We live for as long as the session lives by which we announced ourselves (recover_workers), so
    one that was cut is replaced at once, also while handlers get their time at a stop. Should that
    have taken too long, others have our jobs: the heartbeat is to learn of it at once.

    Any worker may do this at any time, so none is in charge of it, and what goes wrong with it is
    logged and tried again later: who can claim and finish goes on. Each chore is tried once and
    then waits for its next turn, so that one that fails does not keep the others from theirs, and
    one that takes long keeps them for no longer than its statement may take.
    """

    def __init__(
        self,
        desk: Desk,
        link: Link,
        worker: str,
        about: dict[str, object],
        beat: Callable[[], None],
    ) -> None:
        """Take also what has the heartbeat extend all leases soon."""
        self._desk = desk
        self._link = link
        self._beat = beat
        self._bell = Bell()
        self._session: Connection | None = None  # by which we are to announce ourselves
        self._attends_by: Connection | None = None  # by which we did
        self._worker = worker
        self._about = about
        self._has_brought_all = False
        self._portion = Portion(RECOVER_BATCH, LONG_RECOVERY)
        self._announced = 0.0
        self._overrun = 0  # as announced
        self._announce_chore = Chore("announce_worker", self._announce)
        self._often_chore = Chore("do_chores", self._do_chores)
        self._chores = [
            self._announce_chore,
            Chore("bring_forward_jobs", self._bring_forward),  # after saying what we can handle
            Chore("recover_workers", self._look_for_dead),  # before taking back what they held
            self._often_chore,
            Chore("maintain", self._maintain),
        ]
        self._under_way: Chore | None = None
        self._began = clock()

    def run(self) -> None:
        """Go on until the worker has stopped; once it is to stop, attend and do nothing else."""
        closing, stopping = self._desk.closing, self._desk.stopping
        while not closing.is_set():
            if self._session is None or not self._link.has(self._session):
                self._session = self._link.run(lambda conn: conn)
                self._announce_chore.due = 0.0
            if len(self._desk.overrun) != self._overrun:
                again = self._announced + ANNOUNCE_AGAIN
                self._announce_chore.due = min(self._announce_chore.due, again)
            for chore in self._chores:
                if not self._link.has(self._session):
                    break  # to announce ourselves first: in another session we seem to be gone
                to_do = chore is self._announce_chore or not stopping.is_set()
                if to_do and clock() >= chore.due and not closing.is_set():
                    self._do(chore)
            else:
                next_due = min(chore.due for chore in self._chores)
                seconds = LOOK_PERIOD if stopping.is_set() else min(LOOK_PERIOD, next_due - clock())
                if self._bell.wait(seconds, self._link.fileno()):
                    self._link.take_in()

    def close(self) -> None:
        """End the thread, and a chore that is under way; called from another thread."""
        self._bell.ring()
        if self._under_way is not None:
            self._link.cancel()

    def dismiss(self) -> None:
        """Say good-bye; nothing is held any more."""
        try:
            self._link.once(lambda conn: call(conn, "dismiss_worker", worker=self._worker))
        except psycopg.Error as error:
            log.warning(
                "could not say good-bye; operators see this worker until it is forgotten",
                extra={"fields": {"error": advice(error, self._link.user)}},
            )

    def _do(self, chore: Chore) -> None:
        self._under_way = chore
        try:
            seconds = chore.work()
        except Exception as error:
            seconds = chore.pause.next()
            fields = {
                "chore": chore.name,
                "failures": chore.pause.failures,
                "seconds": round(seconds, 3),
                "sqlstate": getattr(error, "sqlstate", None),
                "error": advice(error, self._link.user),
            }
            log.warning("a chore failed, it is tried again later", extra={"fields": fields})
        else:
            chore.pause = Pause(LONGEST_CHORE_PAUSE)
        finally:
            self._under_way = None
        chore.due = clock() + seconds

    def _announce(self) -> float:
        self._announced = clock()
        overrun = len(self._desk.overrun)
        about = {
            "worker": self._worker,
            "host": socket.gethostname(),
            **self._about,
            "tasks": sorted(registry),
            "overrun": overrun,
            "clock": datetime.now(UTC),
        }

        def announce(conn: Connection) -> Connection:
            call(conn, "announce_worker", **about, attends=not self._link.pooled)
            return conn

        session = self._link.once(announce)
        self._overrun = overrun
        if session is not self._attends_by:
            self._attends_by = session
            self._beat()
        return _about(ANNOUNCE_PERIOD)

    def _bring_forward(self) -> float:
        """Have the jobs run now that waited for a worker with our handlers.

        All of them when we start. Later there is one now and then: workers that have no handler
        put jobs off for a short time only once they can know of us.
        """
        rows = self._link.once(
            lambda conn: call(
                conn,
                "bring_forward_jobs",
                queues=self._about["queues"],
                tasks=sorted(registry),
                max_jobs=FORWARD_BATCH,
            )
        )
        count = rows[0]["bring_forward_jobs"]
        if count:
            self._desk.room.ring()
            log.info(
                "jobs that waited for a worker with a handler are due now",
                extra={"fields": {"jobs": count}},
            )
        if count == FORWARD_BATCH and not self._has_brought_all:
            return 0.0
        self._has_brought_all = True
        return _about(ANNOUNCE_PERIOD)

    def _look_for_dead(self) -> float:
        """Take for dead the workers whose sessions are gone; what they held is to be recovered."""
        rows = self._link.once(lambda conn: call(conn, "recover_workers"))
        seconds = rows[0]["recover_workers"].total_seconds()
        if not seconds:
            self._often_chore.due = 0.0
        return min(seconds, 1.0) if clock() < self._began + EARLY else seconds

    def _do_chores(self) -> float:
        """Take back jobs of the dead, and those whose leases ran out; else have all be counted."""

        def do_chores(conn: Connection) -> dict[str, Any]:
            with self._portion.tried():
                return call(conn, "do_chores", max_jobs=self._portion.size)[0]

        done = self._link.once(do_chores)
        seconds = done["again_in_seconds"]
        if not done["recovered"]:
            return _about(seconds)
        log.warning(
            "took back jobs whose workers died, or whose leases ran out",
            extra={"fields": {"jobs": done["recovered"]}},
        )
        return seconds

    def _maintain(self) -> float:
        self._link.once(lambda conn: call(conn, "maintain"))
        return _about(MAINTAIN_PERIOD)


def _about(seconds: float) -> float:
    """Return these seconds, more or less, so that a fleet does not do the same at one time."""
    return seconds * random.uniform(0.8, 1.2)
