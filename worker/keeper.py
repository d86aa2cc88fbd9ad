"""What keeps leases alive, and what keeps the whole fleet well: heartbeat and upkeep."""

import logging
import random
import socket
import threading
from datetime import timedelta

import psycopg

from db.gateway import call
from worker.desk import Desk
from worker.job import Job, clock, registry
from worker.link import LOCKED, Connection, Link

log = logging.getLogger("rota.worker")

NEWS_PERIOD = 1.0  # seconds between two progress reports of one job
ANNOUNCE_PERIOD = 30.0  # seconds
RECOVER_PERIOD = 5.0  # seconds, at least
RECOVER_SHARE = 100  # times what the last recovery took, at least
RECOVER_BATCH = 1000  # jobs
MAINTAIN_PERIOD = 3600.0  # seconds
FORWARD_BATCH = 1000  # jobs

HEARTBEAT = """
    select
        h.job_id,
        extract(epoch from h.lease_until - clock_timestamp())::float8,
        h.cancel_requested
    from rota.heartbeat_jobs(%(ids)s::bigint[], %(tokens)s::text[]::uuid[], %(lease)s) as h
"""


class Heartbeat:
    """The thread that extends leases, hears of cancels, sends progress and minds deadlines.

    A handler that keeps the interpreter's lock (a long call into C that does not let go of it)
    stops this thread too. The lease then runs out; ``Job.cancelled`` turns true by the clock alone
    a margin before, and the database refuses what comes after another worker took over.
    """

    def __init__(self, desk: Desk, link: Link, lease: float, margin: float) -> None:
        self._desk = desk
        self._link = link
        self._lease = lease
        self._margin = margin
        self._period = lease / 3
        self.closed = False

    def run(self) -> None:
        """Beat until closed."""
        self._link.run(lambda conn: None)  # be connected before connections become scarce
        next_beat = clock() + self._period
        while not self.closed:
            self._desk.attention.wait(max(0.0, self._next_event(next_beat) - clock()))
            self._desk.attention.clear()
            self._end_overdue()
            if clock() >= next_beat:
                self._beat()
                next_beat = clock() + self._period
            self._send_news()

    def close(self) -> None:
        """End the thread; nothing is held any more."""
        self.closed = True
        self._desk.attention.set()

    def _next_event(self, next_beat: float) -> float:
        deadlines = [job.deadline for job in list(self._desk.timed) if job.deadline is not None]
        news = [job.news_sent_at + NEWS_PERIOD for job in list(self._desk.with_news)]
        return min([next_beat, *deadlines, *news])

    def _end_overdue(self) -> None:
        now = clock()
        for job in list(self._desk.timed):
            if job.deadline is not None and now >= job.deadline:
                self._desk.time_out(job)

    def _beat(self) -> None:
        """Extend the lease of everything held, but for leases that are quite new."""

        def beat(conn: Connection) -> None:
            asked_at = clock()
            held = [job for job in list(self._desk.held) if not job.lost]
            # Of two leases of one job only the later can be live. Answers go by the job's id.
            latest = {job.id: job for job in sorted(held, key=lambda job: job.leased_at)}
            for job in held:
                if latest[job.id] is not job:
                    self._hear(job, asked_at, None)
            due = [job for job in latest.values() if job.leased_at <= asked_at - self._period / 3]
            if not due:
                return
            arguments = {
                "ids": [job.id for job in due],
                "tokens": [job.token for job in due],
                "lease": timedelta(seconds=self._lease),
            }
            rows = conn.execute(HEARTBEAT, arguments).fetchall()
            answers = {job_id: (left, cancel) for job_id, left, cancel in rows}
            for job in due:
                self._hear(job, asked_at, answers.get(job.id))

        self._link.run(beat)

    def _send_news(self) -> None:
        for job in list(self._desk.with_news):
            if clock() < job.news_sent_at + NEWS_PERIOD:
                continue
            self._desk.with_news.discard(job)
            if job in self._desk.in_hand and not job.lost:
                self._send_progress(job)

    def _send_progress(self, job: Job) -> None:
        def send(conn: Connection) -> None:
            asked_at = clock()
            rows = call(
                conn,
                "heartbeat_job",
                job_id=job.id,
                token=job.token,
                lease=timedelta(seconds=self._lease),
                progress=job.news,
            )
            self._hear(job, asked_at, (self._lease, rows[0]["cancel_requested"]))

        job.news_sent_at = clock()
        try:
            self._link.run(send, unless=LOCKED)
        except psycopg.Error as error:
            if error.sqlstate == "RTC02":
                self._hear(job, clock(), None)
            else:
                log.warning(
                    "the database refused a progress report",
                    extra={"fields": {"job_id": job.id, "sqlstate": error.sqlstate}},
                )

    def _hear(self, job: Job, asked_at: float, answer: tuple[float, bool] | None) -> None:
        """Take the answer about one lease: seconds left, and whether to stop; None if it is lost.

        Less time is left than we asked for when the handler itself keeps its row locked
        (``hold_lease``): nobody can take the job back then, and nobody can extend the lease.
        """
        if answer is None:
            job.lost = True
            if job in self._desk.running:
                log.warning(
                    "the lease was lost, what its handler returns will be discarded",
                    extra={"fields": {"job_id": job.id, "task": job.task}},
                )
            job.interrupt()
            return
        left, cancel_requested = answer
        job.leased_at = asked_at
        job.trusted_until = asked_at + min(left, self._lease) - self._margin
        job.cancel_requested = job.cancel_requested or cancel_requested
        if cancel_requested:
            job.interrupt()


class Upkeep:
    """The thread that says we are here, takes back what dead workers held, and tidies up.

    Any worker may do this at any time, so none is in charge of it.
    """

    def __init__(
        self,
        link: Link,
        stopping: threading.Event,
        worker: str,
        about: dict[str, object],
        desk: Desk,
    ) -> None:
        self._link = link
        self._stopping = stopping
        self._worker = worker
        self._about = about
        self._desk = desk
        self._has_brought_all = False

    def run(self) -> None:
        """Go on until the worker stops."""
        chores = [
            (self._announce, 0.0),
            (self._bring_forward, 0.0),  # after announcing what we have handlers for
            (self._recover, 0.0),
            (self._maintain, 0.0),
        ]
        while not self._stopping.is_set():
            chores = [
                (chore, due if clock() < due else clock() + chore() * random.uniform(0.8, 1.2))
                for chore, due in chores
            ]
            self._stopping.wait(max(0.0, min(due for _, due in chores) - clock()))

    def dismiss(self) -> None:
        """Say good-bye; nothing is held any more."""
        self._link.run(lambda conn: call(conn, "dismiss_worker", worker=self._worker))

    def _announce(self) -> float:
        about = {"worker": self._worker, "host": socket.gethostname(), **self._about}
        self._link.run(lambda conn: call(conn, "announce_worker", **about))
        return ANNOUNCE_PERIOD

    def _bring_forward(self) -> float:
        """Have the jobs run now that waited for a worker with our handlers.

        All of them when we start. Later there is one now and then: workers that have no handler
        put jobs off for a short time only once they can know of us.
        """
        rows = self._link.run(
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
        return ANNOUNCE_PERIOD

    def _recover(self) -> float:
        began = clock()
        rows = self._link.run(lambda conn: call(conn, "recover_jobs", max_jobs=RECOVER_BATCH))
        took = clock() - began
        count = rows[0]["recover_jobs"]
        if count:
            log.warning("took back jobs whose leases ran out", extra={"fields": {"jobs": count}})
        return 0.0 if count == RECOVER_BATCH else max(RECOVER_PERIOD, RECOVER_SHARE * took)

    def _maintain(self) -> float:
        self._link.run(lambda conn: call(conn, "maintain"))
        return MAINTAIN_PERIOD
