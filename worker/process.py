"""The worker process: its threads, and how they end."""

import os
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from rota.worker.branch import Branch, start_thread
from rota.worker.clock import clock
from rota.worker.crew import Crew
from rota.worker.entrance import Entrance
from rota.worker.floor import Floor
from rota.worker.link import Link, Pause, advice
from rota.worker.log import log
from rota.worker.options import Options
from rota.worker.surroundings import restore
from rota.worker.tasks import registry
from rota.worker.watch import Watch

if TYPE_CHECKING:
    from rota.worker.metrics import Port

LAST_CLAIM = 1.0  # seconds for a claim that is under way at a stop; then it is cancelled
LAST_WORD = 5.0  # seconds, at least, for the last results to reach the database at a stop
FAREWELL = 0.5  # seconds that a coroutine gets to end after the grace time
ABANDONED_DELAY = timedelta(seconds=1)  # by then this process is gone


class Worker:
    """Claims jobs, runs their handlers, and tells the database how they ended.

    Claiming, handling and finishing go on at the same time, each on a connection of its own. The
    database decides everything that two workers could disagree about. Of several databases each has
    its own connections and threads; the places where handlers run are for the jobs of all.
    """

    def __init__(
        self,
        options: Options,
        version: str,
        entrance: Entrance,
        port: "Port | None" = None,
    ) -> None:
        """Set up the threads; nothing runs yet, and nothing is connected.

        Args:
            options: what was asked for.
            version: of the functions of the databases.
            entrance: says which of them we may work with.
            port: where metrics are to be asked for, if anywhere.
        """
        self.id = str(uuid.uuid4())
        self._options = options
        self._failure = False
        self._stop = threading.Event()
        self._floor = floor = Floor(options.limits, options.concurrency)
        self._branches = [
            Branch(url, floor, self.id, options, version, entrance, self._end)
            for url in options.urls
        ]
        self._crew = Crew(self._branches[0].desk, options.concurrency, self._thread)
        self._watch = Watch(floor, self._links)
        self._port = port
        if port is not None:
            floor.metrics = port.metrics
            port.metrics.reconnects = self._reconnects

    @property
    def _links(self) -> list[Link]:
        return [link for branch in self._branches for link in branch.links]

    def run(self, first: list[str]) -> int:
        """Work until told to stop, then stop as gently as the grace time allows.

        Args:
            first: the databases that are there; the others come later.

        Raises:
            RuntimeError: the system has no thread for it.

        Returns:
            The exit code: 0 if the databases were told about everything we held.
        """
        os.register_at_fork(after_in_child=self._leave_to_parent)
        self._crew.start()
        self._thread("watch", self._watch.run)
        if self._port is not None:
            self._thread("metrics", partial(self._port.run, self._floor.closing))
        for url, branch in zip(self._options.urls, self._branches, strict=True):
            if url in first:
                branch.start()
            else:
                branch.start_later()
        several = {"databases": [branch.name for branch in self._branches]}
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
                | (several if len(self._branches) > 1 else {})
            },
        )
        self._stop.wait()

        grace_ends_at = clock() + self._options.grace
        self._floor.stopping.set()
        for branch in self._branches:
            branch.desk.room.ring()
        last_claim = clock() + LAST_CLAIM
        for branch in self._branches:
            branch.stop_claiming(last_claim)
        log.info("stopping", extra={"fields": {"running": self._count("running")}})
        self._crew.stop(grace_ends_at - clock())
        self._abandon_running()
        self._crew.let_coroutines_end(FAREWELL)

        last_word = max(clock() + LAST_WORD, grace_ends_at)
        for branch in self._branches:
            branch.desk.done.put(None)
        for branch in self._branches:
            branch.finish(last_word)
        self._floor.closing.set()
        for branch in self._branches:
            branch.close()
        told = [branch.leave() for branch in self._branches]
        log.info("stopped", extra={"fields": {"not_finished": self._count("held")}})
        return 0 if all(told) and not self._failure else 1

    def stop(self) -> None:
        """Have ``run`` stop; safe in a signal handler."""
        self._stop.set()

    def _count(self, what: str) -> int:
        return sum(len(getattr(branch.desk, what)) for branch in self._branches)

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        return start_thread(name, partial(self._guard, work))

    def _guard(self, work: Callable[[], None]) -> None:
        """Do the work, and go on with it whatever unexpected happens in it."""
        pause = Pause()
        while True:
            try:
                work()
                return
            except BaseException:
                restore()
                log.exception("unexpected error, going on")
                if self._floor.closing.wait(pause.next()):
                    return

    def _end(self, error: BaseException, user: str) -> None:
        """Stop, since the database refuses what we cannot do without."""
        log.critical("the worker cannot go on", extra={"fields": {"error": advice(error, user)}})
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
        for desk, job in [(d, job) for d in self._floor.desks for job in list(d.running)]:
            job.lost = True
            if desk.settle(
                job,
                error="its worker stopped before it was done",
                handed_back=ABANDONED_DELAY,
            ):
                log.warning(
                    "still running after the grace time, handed back",
                    extra={"fields": {"job_id": job.id, "task": job.task}},
                )
            job.interrupt()
