"""The worker process: its threads, and how they end."""

import os
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from rota.worker.claimer import Claimer, Ear
from rota.worker.clerk import Clerk
from rota.worker.clock import clock
from rota.worker.crew import Crew
from rota.worker.desk import Desk
from rota.worker.finisher import Finisher
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
from rota.worker.tasks import registry
from rota.worker.upkeep import Upkeep
from rota.worker.watch import Watch

if TYPE_CHECKING:
    from rota.worker.metrics import Port

LOCK_PATIENCE = 0.5  # seconds that a call waits for a lock; our own calls hold theirs for less
SHORT_LOCK = 0.1  # the same for what is asked for handlers, which may have locked it themselves
SHORT_PAUSE = 0.2  # seconds between two tries of a heartbeat, be the lease ever so short
PATIENCE = 10.0  # seconds for a statement
LONG_PATIENCE = 60.0  # seconds for one that needs more and that no lease depends on
LAST_CLAIM = 1.0  # seconds for a claim that is under way at a stop; then it is cancelled
LAST_WORD = 5.0  # seconds, at least, for the last results to reach the database at a stop
FAREWELL = 0.5  # seconds that a coroutine gets to end after the grace time
ABANDONED_DELAY = timedelta(seconds=1)  # by then this process is gone


class Worker:
    """Claims jobs, runs their handlers, and tells the database how they ended.

    Claiming, handling and finishing go on at the same time, each on a connection of its own. The
    database decides everything that two workers could disagree about.
    """

    def __init__(self, options: Options, version: str, port: "Port | None" = None) -> None:
        """Set up the threads; nothing runs yet, and nothing is connected.

        Args:
            options: what was asked for.
            version: of the functions of the database.
            port: where metrics are to be asked for, if anywhere.
        """
        self.id = str(uuid.uuid4())
        self._options = options
        self._failure = False
        self._stop = threading.Event()
        lease = options.lease
        self._desk = desk = Desk(options.limits)
        self._links: list[Link] = []
        short_pause = max(SHORT_PAUSE, lease / 10)
        common = {
            "patience": PATIENCE,
            "lock_patience": LOCK_PATIENCE,
            "door": Door(min(LONGEST_SHUT, short_pause)),
        }

        def link(purpose: str, give_up: threading.Event, **more: Any) -> Link:
            options_of_link = {**common, **more}
            self._links.append(Link(options.url, purpose, give_up, **options_of_link))
            return self._links[-1]

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
            self.id,
            options,
            Clerk(desk, link("steps", desk.closing, lock_patience=SHORT_LOCK), self._thread),
        )
        self._finishes = link("finish", desk.closing)
        self._finisher = Finisher(desk, self._finishes, lease)
        self._crew = Crew(desk, options.concurrency, self._thread)
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
        self._upkeep = Upkeep(desk, chores, self.id, about, self._heartbeat.beat_soon)
        self._watch = Watch(desk, self._links)
        self._port = port
        if port is not None:
            desk.metrics = port.metrics
            port.metrics.reconnects = self._reconnects

    def run(self) -> int:
        """Work until told to stop, then stop as gently as the grace time allows.

        Raises:
            RuntimeError: the system has no thread for it.

        Returns:
            The exit code: 0 if the database was told about everything we held.
        """
        os.register_at_fork(after_in_child=self._leave_to_parent)
        self._crew.start()
        self._thread("watch", self._watch.run)
        if self._port is not None:
            self._thread("metrics", partial(self._port.run, self._desk.closing))
        heartbeat = self._thread("heartbeat", self._heartbeat.run)
        finisher = self._thread("finish", self._finisher.run)
        upkeep = self._thread("upkeep", self._upkeep.run)
        claimer = self._thread("claim", self._claimer.run)  # last: now there is all it takes
        log.info(
            "started",
            extra={
                "fields": {
                    "worker": self.id,
                    "queues": self._options.queues,
                    "concurrency": self._options.concurrency,
                    "lease": self._options.lease,
                    "tasks": sorted(registry),
                }
            },
        )
        self._stop.wait()

        grace_ends_at = clock() + self._options.grace
        self._desk.stopping.set()
        self._desk.room.ring()
        claimer.join(LAST_CLAIM)
        if claimer.is_alive():
            self._claims.cancel()
            claimer.join(SILENCE)
        if claimer.is_alive():
            self._claims.cut("a claim did not end in time, its connection is cut")
            claimer.join(SILENCE)
        log.info("stopping", extra={"fields": {"running": len(self._desk.running)}})
        self._crew.stop(grace_ends_at - clock())
        self._abandon_running()
        self._crew.let_coroutines_end(FAREWELL)

        self._desk.done.put(None)
        finisher.join(max(LAST_WORD, grace_ends_at - clock()))
        self._desk.closing.set()
        self._heartbeat.close()
        self._upkeep.close()
        for thread in (finisher, upkeep, heartbeat):
            thread.join(SILENCE)
        told = not (claimer.is_alive() or finisher.is_alive() or self._desk.held)
        if told and not upkeep.is_alive():
            self._upkeep.dismiss()
        log.info("stopped", extra={"fields": {"not_finished": len(self._desk.held)}})
        return 0 if told and not self._failure else 1

    def stop(self) -> None:
        """Have ``run`` stop; safe in a signal handler."""
        self._stop.set()

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._guard, args=[work], name=name, daemon=True)
        thread.start()
        return thread

    def _guard(self, work: Callable[[], None]) -> None:
        """Do the work, and go on with it whatever unexpected happens in it.

        What ends a worker is that it may not call what it needs, or that this is not there: it
        could neither claim nor finish, and that will not pass by itself.
        """
        pause = Pause()
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
                if is_hopeless(error):
                    self._end(error)
                    return
                log.exception("unexpected error, going on")
                if self._desk.closing.wait(pause.next()):
                    return

    def _end(self, error: BaseException) -> None:
        """Stop, since the database refuses what we cannot do without."""
        words = advice(error, self._claims.user or self._finishes.user)
        log.critical("the worker cannot go on", extra={"fields": {"error": words}})
        self._failure = True
        self._stop.set()

    def _leave_to_parent(self) -> None:
        """Let go of the connections in a child that a handler has forked."""
        for link in self._links:
            link.leave_to_parent()
        if self._port is not None:
            self._port.leave_to_parent()

    def _reconnects(self) -> int:
        return sum(max(0, link.opened - 1) for link in self._links)

    def _abandon_running(self) -> None:
        """Release what outlived the grace time; it is due again when this process is gone."""
        for job in list(self._desk.running):
            job.lost = True
            if self._desk.settle(
                job,
                error="its worker stopped before it was done",
                handed_back=ABANDONED_DELAY,
            ):
                log.warning(
                    "still running after the grace time, handed back",
                    extra={"fields": {"job_id": job.id, "task": job.task}},
                )
            job.interrupt()
