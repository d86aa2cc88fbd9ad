"""The worker process: its threads, and how they end."""

import logging
import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from worker.claimer import Claimer, Ear
from worker.crew import Crew
from worker.desk import Desk
from worker.finisher import Finisher
from worker.job import clock, registry
from worker.keeper import Heartbeat, Upkeep
from worker.link import GaveUp, Link

log = logging.getLogger("rota.worker")

MARGIN = 0.1  # of the lease: this much before its end it is not trusted any more
LOCK_PATIENCE = 0.5  # seconds that a call waits for a lock; our own calls hold theirs for less
WATCH_PERIOD = 1.0  # seconds between two looks for connections that have gone silent
LONG_PATIENCE = 60.0  # seconds for a call that no lease depends on
LAST_CLAIM = 1.0  # seconds for a claim that is under way at a stop; then it is cancelled
LAST_WORD = 5.0  # seconds, at least, for the last results to reach the database at a stop
FAREWELL = 0.5  # seconds that a coroutine gets to end after the grace time
ABANDONED_DELAY = timedelta(seconds=1)  # by then this process is gone


@dataclass(frozen=True)
class Options:
    """What ``python -m worker`` was asked for; times are in seconds."""

    url: str
    queues: dict[str, int | None]
    concurrency: int = 8
    lease: float = 30.0
    grace: float = 30.0
    poll: float = 1.0


class Worker:
    """Claims jobs, runs their handlers, and tells the database how they ended.

    Claiming, handling and finishing go on at the same time, each on a connection of its own. The
    database decides everything that two workers could disagree about.
    """

    def __init__(self, options: Options, version: str) -> None:
        """Set up the threads; nothing runs yet, and nothing is connected."""
        self.id = str(uuid.uuid4())
        self._options = options
        self._failure = False
        self._stop = threading.Event()
        lease, margin = options.lease, options.lease * MARGIN
        limits = {queue: limit for queue, limit in options.queues.items() if limit is not None}
        self._desk = desk = Desk(limits)
        self._links: list[Link] = []

        def link(
            purpose: str,
            give_up: threading.Event,
            patience: float | None = None,
            **more: Any,
        ) -> Link:
            patience = patience or max(1.0, lease / 3)
            self._links.append(Link(options.url, purpose, give_up, patience, LOCK_PATIENCE, **more))
            return self._links[-1]

        self._claims = link("claim", desk.stopping, most_patience=LONG_PATIENCE, durable=False)
        self._claimer = Claimer(
            desk,
            self._claims,
            Ear(self._claims, list(options.queues), options.poll),
            self.id,
            options.queues,
            options.concurrency,
            lease,
            margin,
            options.poll,
        )
        self._finisher = Finisher(desk, link("finish", desk.closing, LONG_PATIENCE))
        self._crew = Crew(desk, options.concurrency, self._thread)
        self._heartbeat = Heartbeat(desk, link("heartbeat", desk.closing), lease, margin)
        about = {
            "pid": os.getpid(),
            "queues": list(options.queues),
            "concurrency": options.concurrency,
            "version": version,
        }
        self._upkeep = Upkeep(
            link("upkeep", desk.stopping, LONG_PATIENCE), desk.stopping, self.id, about, desk
        )

    def run(self) -> int:
        """Work until told to stop, then stop as gently as the grace time allows.

        Returns:
            The exit code: 0 if the database was told about everything we held.
        """
        claimer = self._thread("claim", self._claimer.run)
        finisher = self._thread("finish", self._finisher.run)
        heartbeat = self._thread("heartbeat", self._heartbeat.run)
        upkeep = self._thread("upkeep", self._upkeep.run)
        self._thread("watch", self._watch)
        self._crew.start()
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
            claimer.join(self._options.lease)
        log.info("stopping", extra={"fields": {"running": len(self._desk.running)}})
        self._crew.stop(grace_ends_at - clock())
        self._abandon_running()
        self._crew.let_coroutines_end(FAREWELL)

        self._desk.done.put(None)
        finisher.join(max(LAST_WORD, grace_ends_at - clock()))
        self._desk.closing.set()
        self._heartbeat.close()
        upkeep.join(LAST_WORD)
        heartbeat.join(LAST_WORD)
        told = not (claimer.is_alive() or finisher.is_alive() or self._desk.held)
        if told and not upkeep.is_alive():
            self._guard(self._upkeep.dismiss)
        log.info("stopped", extra={"fields": {"not_finished": len(self._desk.held)}})
        return 0 if told and not self._failure else 1

    def stop(self) -> None:
        """Have ``run`` stop; safe in a signal handler."""
        self._stop.set()

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._guard, args=[work], name=name, daemon=True)
        thread.start()
        return thread

    def _watch(self) -> None:
        """Cut connections that have gone silent; their threads then connect anew."""
        while not self._desk.closing.wait(WATCH_PERIOD):
            for link in self._links:
                link.cut_if_silent()

    def _guard(self, work: Callable[[], None]) -> None:
        """Do the work; a worker that has lost one of its threads must not go on without it."""
        try:
            work()
        except GaveUp as error:
            log.warning("the database did not answer", extra={"fields": {"purpose": str(error)}})
        except BaseException:
            log.critical("the worker cannot go on", exc_info=True)
            self._failure = True
            self._stop.set()

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
