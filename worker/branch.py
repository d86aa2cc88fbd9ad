"""What a worker does for one database: its links and threads, and how they end."""

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from rota.worker.claimer import Claimer, Ear
from rota.worker.clerk import Clerk
from rota.worker.clock import clock
from rota.worker.desk import Desk
from rota.worker.entrance import CannotStart, Entrance
from rota.worker.finisher import Finisher
from rota.worker.floor import Floor
from rota.worker.heartbeat import Heartbeat
from rota.worker.link import (
    LONGEST_PAUSE,
    LONGEST_SHUT,
    SILENCE,
    Door,
    GaveUp,
    Link,
    Pause,
    advice,
    is_hopeless,
)
from rota.worker.log import log
from rota.worker.options import Options
from rota.worker.surroundings import restore
from rota.worker.upkeep import Upkeep

LOCK_PATIENCE = 0.5  # seconds that a call waits for a lock; our own calls hold theirs for less
SHORT_LOCK = 0.1  # the same for what is asked for handlers, which may have locked it themselves
SHORT_PAUSE = 0.2  # seconds between two tries of a heartbeat, be the lease ever so short
PATIENCE = 10.0  # seconds for a statement
LONG_PATIENCE = 60.0  # seconds for one that needs more and that no lease depends on
LONGEST_HOPELESS = 15.0  # seconds before another try where somebody has to do something about it


class Branch:
    """Claims jobs of one database, and tells it how they ended.

    Of several each is on its own: what goes wrong with one, whatever it is, is logged and tried
    again, and the others do not notice.

    Args:
        url: the database's.
        floor: the places that all of them share.
        worker: our id.
        options: what was asked for.
        version: of the functions of the database.
        entrance: says whether we may work with it.
        end: is told of an error after which a worker cannot go on.
    """

    def __init__(
        self,
        url: str,
        floor: Floor,
        worker: str,
        options: Options,
        version: str,
        entrance: Entrance,
        end: Callable[[BaseException, str], None],
    ) -> None:
        self._url = url
        self._is_alone = len(options.urls) == 1
        self.name = entrance.names[url]
        self._admit = partial(entrance.admit, url)
        self._end = end
        self.desk = desk = Desk(options.limits, floor)
        self.links: list[Link] = []
        self._starting = threading.Lock()
        self.is_started = False
        lease = options.lease
        short_pause = max(SHORT_PAUSE, lease / 10)
        common = {
            "patience": PATIENCE,
            "lock_patience": LOCK_PATIENCE,
            "door": Door(min(LONGEST_SHUT, short_pause)),
            "database": "" if self._is_alone else self.name,
        }

        def link(purpose: str, give_up: threading.Event, **more: Any) -> Link:
            options_of_link = {**common, **more}
            self.links.append(Link(url, purpose, give_up, **options_of_link))
            return self.links[-1]

        within_lease = min(PATIENCE, max(1.0, lease / 3))
        self._claims = link(
            "claim",
            desk.stopping,
            patience=within_lease,
            most_patience=LONG_PATIENCE,
            durable=False,
        )
        self._claimer = Claimer(
            desk,
            self._claims,
            Ear(self._claims, list(options.queues), options.poll),
            worker,
            options,
            Clerk(desk, link("steps", desk.closing, lock_patience=SHORT_LOCK), self.thread),
        )
        self._finishes = link("finish", desk.closing)
        self._finisher = Finisher(desk, self._finishes, lease)
        beats = link(
            "heartbeat",
            desk.closing,
            patience=within_lease,
            lock_patience=min(LOCK_PATIENCE, lease / 10),
            longest_pause=min(LONGEST_PAUSE, short_pause),
            durable=False,
        )
        self._heartbeat = Heartbeat(desk, beats, lease, options.margin)
        about = {
            "pid": os.getpid(),
            "queues": list(options.queues),
            "concurrency": options.concurrency,
            "version": version,
        }
        chores = link("upkeep", desk.closing, most_patience=LONG_PATIENCE)
        self._upkeep = Upkeep(desk, chores, worker, about, self._heartbeat.beat_soon)

    @property
    def user(self) -> str:
        """Whom the server takes us for."""
        return self._claims.user or self._finishes.user

    def start(self) -> None:
        """Begin to work, unless the worker stops."""
        with self._starting:
            if self.desk.stopping.is_set():
                return
            self.is_started = True
            self._heartbeats = self.thread("heartbeat", self._heartbeat.run)
            self._finishing = self.thread("finish", self._finisher.run)
            self._upkeeping = self.thread("upkeep", self._upkeep.run)
            # Last: now there is all that it takes.
            self._claiming = self.thread("claim", self._claimer.run)

    def start_later(self) -> None:
        """Begin to work when the database is there."""
        self.thread("begin", self._begin)

    def _begin(self) -> None:
        pause = Pause(LONGEST_HOPELESS)
        while not self.desk.stopping.is_set():
            try:
                self._admit()
            except CannotStart as error:
                fields = {"database": self.name, "error": str(error)}
                log.critical("a database cannot be worked with", extra={"fields": fields})
                self.desk.stopping.wait(pause.next())
            else:
                log.info("a database has come", extra={"fields": {"database": self.name}})
                self.start()
                return

    def stop_claiming(self, until: float) -> None:
        """See to it that no more jobs come; a claim that takes longer than that is cut."""
        with self._starting:  # which comes to its end, or does not begin
            pass
        if not self.is_started:
            return
        self.desk.room.ring()
        self._claiming.join(max(0.0, until - clock()))
        if self._claiming.is_alive():
            self._claims.cancel()
            self._claiming.join(SILENCE)
        if self._claiming.is_alive():
            self._claims.cut("a claim did not end in time, its connection is cut")
            self._claiming.join(SILENCE)

    def finish(self, until: float) -> None:
        """Have the database told how the last jobs ended, if it listens until then."""
        if self.is_started:
            self._finishing.join(max(0.0, until - clock()))

    def close(self) -> None:
        """Have the threads end."""
        self._heartbeat.close()
        self._upkeep.close()

    def leave(self) -> bool:
        """Say good-bye; return whether the database was told about everything we held of it."""
        if not self.is_started:
            return True
        for thread in (self._finishing, self._upkeeping, self._heartbeats):
            thread.join(SILENCE)
        told = not (self._claiming.is_alive() or self._finishing.is_alive() or self.desk.held)
        if told and not self._upkeeping.is_alive():
            self._upkeep.dismiss()
        return told

    def thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        """Start a thread that does some work, and goes on with it after what is unexpected."""
        return start_thread(name, partial(self._guard, work))

    def _guard(self, work: Callable[[], None]) -> None:
        """Do the work, and go on with it whatever unexpected happens in it.

        What ends a worker is that it may not call what it needs, or that this is not there: it
        could neither claim nor finish, and that will not pass by itself. One that has other
        databases goes on with those, and waits for somebody to mend this one.
        """
        pause = Pause()
        hopeless_pause = Pause(LONGEST_HOPELESS)
        while True:
            try:
                work()
                return
            except GaveUp as error:
                log.warning(
                    "the database did not answer", extra={"fields": {"purpose": str(error)}}
                )
                return
            except BaseException as error:
                restore()
                seconds = pause.next()
                if not is_hopeless(error):
                    log.exception("unexpected error, going on")
                elif self._is_alone:
                    self._end(error, self.user)
                    return
                else:
                    seconds = hopeless_pause.next()
                    fields = {"database": self.name, "error": advice(error, self.user)}
                    log.critical("a database cannot be worked with", extra={"fields": fields})
                if self.desk.closing.wait(seconds):
                    return


def start_thread(name: str, work: Callable[[], None]) -> threading.Thread:
    """Start a thread that does not keep the process alive."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread
