"""What keeps leases alive, and what keeps the whole fleet well: watch, heartbeat and upkeep."""

import random
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg

from db.gateway import call
from worker.desk import Desk
from worker.job import Job, clock, registry, text_of
from worker.link import Connection, Link, Pause, Portion, advice, passes, shifts
from worker.log import log
from worker.surroundings import restore

LARGEST_BEAT = 2000  # jobs
NEWS_PERIOD = 1.0  # seconds between two progress reports of one job
LONGEST_NEWS_PERIOD = 30.0  # seconds, for one whose reports meet with errors
ANNOUNCE_PERIOD = 30.0  # seconds
ANNOUNCE_AGAIN = 5.0  # seconds, at least, when what we would say has changed
RECOVER_PERIOD = 5.0  # seconds, at least
RECOVER_SHARE = 100  # times what the last recovery took, at least
LONGEST_RECOVER_PERIOD = 60.0  # seconds
RECOVER_BATCH = 1000  # jobs
LONG_RECOVERY = 2.0  # seconds; after one that took longer, less is asked for
MAINTAIN_PERIOD = 3600.0  # seconds
FORWARD_BATCH = 1000  # jobs
LONGEST_CHORE_PAUSE = 60.0  # seconds before a chore that failed is tried again, at most
LOOK_PERIOD = 1.0  # seconds between two looks at what cannot wake the thread that looks

HEARTBEAT = """
    select
        h.job_id,
        extract(epoch from h.lease_until - clock_timestamp())::float8,
        h.cancel_requested
    from rota.heartbeat_jobs(%(ids)s::bigint[], %(tokens)s::text[]::uuid[], %(lease)s) as h
"""


class Watch:
    """The thread that minds time: deadlines, silent connections, what others change in the process.

    It asks the database nothing, so whatever becomes of that, a timeout is noticed in time.
    """

    def __init__(self, desk: Desk, links: list[Link]) -> None:
        self._desk = desk
        self._links = links

    def run(self) -> None:
        """Watch until the worker has stopped."""
        while not self._desk.closing.is_set():
            self._desk.time_limits.wait(self._until_next_look())
            self._desk.time_limits.clear()
            restore()
            self._end_overdue()
            for link in self._links:
                link.cut_if_silent()

    def _until_next_look(self) -> float:
        deadlines = [job.deadline for job in list(self._desk.timed) if job.deadline is not None]
        return max(0.0, min([LOOK_PERIOD, *(deadline - clock() for deadline in deadlines)]))

    def _end_overdue(self) -> None:
        now = clock()
        for job in list(self._desk.timed):
            if job.deadline is not None and now >= job.deadline:
                self._desk.time_out(job)


class Heartbeat:
    """The thread that extends leases, hears of cancels, and sends progress.

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
        self._next_beat = 0.0
        self._portion = Portion(LARGEST_BEAT)
        self.closed = False

    def run(self) -> None:
        """Beat until closed."""
        self._link.run(lambda conn: None)  # be connected before connections become scarce
        self._next_beat = clock() + self._period
        while not self.closed:
            self._desk.attention.wait(max(0.0, self._next_event() - clock()))
            self._desk.attention.clear()
            if clock() >= self._next_beat:
                self._next_beat = clock() + self._period
                self._beat()
            self._send_news()

    def close(self) -> None:
        """End the thread; nothing is held any more."""
        self.closed = True
        self._desk.attention.set()

    def _next_event(self) -> float:
        news = [job.news_due for job in list(self._desk.with_news)]
        return min([self._next_beat, *news])

    def _beat(self) -> None:
        """Extend the lease of everything held, but for leases that are quite new.

        What has waited for longest comes first, and in portions, so that a server that is slow
        extends some of them rather than none.
        """
        began = clock()
        left = True
        while left:

            def beat(conn: Connection) -> bool:
                with self._portion.tried():
                    return self._beat_portion(conn, began)

            try:
                left = self._link.run(beat)
            except psycopg.Error as error:
                log.error(
                    "the database refused a heartbeat, another will be tried",
                    extra={"fields": {"error": advice(error, self._link.user)}},
                )
                return

    def _beat_portion(self, conn: Connection, began: float) -> bool:
        """Extend some leases; return whether there are more of them to extend."""
        asked_at = clock()
        held = [job for job in list(self._desk.held) if not job.lost]
        # Of two leases of one job only the later can be live. Answers go by the job's id.
        latest = {job.id: job for job in sorted(held, key=lambda job: job.leased_at)}
        for job in held:
            if latest[job.id] is not job:
                self._hear(job, asked_at, None)
        due = [job for job in latest.values() if job.leased_at <= began - self._period / 3]
        if not due:
            return False
        now, later = due[: self._portion.size], due[self._portion.size :]
        arguments = {
            "ids": [job.id for job in now],
            "tokens": [job.token for job in now],
            "lease": timedelta(seconds=self._lease),
        }
        rows = conn.execute(HEARTBEAT, arguments).fetchall()
        answers = {job_id: (left, cancel) for job_id, left, cancel in rows}
        for job in now:
            self._hear(job, asked_at, answers.get(job.id))
        return bool(later)

    def _send_news(self) -> None:
        """Send progress, the oldest first, for as long as no beat is due."""
        for job in sorted(self._desk.with_news, key=lambda job: job.news_due):
            if clock() >= self._next_beat:
                return
            if clock() < job.news_due:
                continue
            self._desk.with_news.discard(job)
            if job in self._desk.in_hand and not job.lost:
                self._send_progress(job)

    def _send_progress(self, job: Job) -> None:
        """Send the last news of a job, once.

        Where that is not possible now (its row is locked by another, or the database is away) it
        is sent later, less and less often, so that the news of one job hold up no other's.
        """

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

        job.news_due = clock() + NEWS_PERIOD
        try:
            self._link.once(send)
        except psycopg.Error as error:
            if error.sqlstate == "RTC02":
                self._hear(job, clock(), None)
            elif passes(error) or shifts(error):
                job.news_delay = min(2 * job.news_delay, LONGEST_NEWS_PERIOD)
                job.news_due = clock() + job.news_delay
                self._desk.with_news.add(job)
            else:
                log.warning(
                    "the database refused a progress report",
                    extra={
                        "fields": {
                            "job_id": job.id,
                            "sqlstate": error.sqlstate,
                            "error": text_of(error),
                        }
                    },
                )
        else:
            job.news_delay = NEWS_PERIOD

    def _hear(self, job: Job, asked_at: float, answer: tuple[float, bool] | None) -> None:
        """Take the answer about one lease: seconds left, and whether to stop; None if it is lost.

        Less time is left than we asked for when the handler itself keeps its row locked
        (``hold_lease``): nobody can take the job back then, and nobody can extend the lease.
        """
        if answer is None:
            self._desk.lose(job)
            job.interrupt()
            return
        left, cancel_requested = answer
        job.leased_at = asked_at
        job.trusted_until = asked_at + min(left, self._lease) - self._margin
        job.cancel_requested = job.cancel_requested or cancel_requested
        if cancel_requested:
            job.interrupt()


class Chore:
    """Something that is done again and again; when it fails it is tried again later."""

    def __init__(self, name: str, work: Callable[[], float]) -> None:
        """Take what does it, and returns after how many seconds to do it again."""
        self.name = name
        self.work = work
        self.due = 0.0
        self.pause = Pause(LONGEST_CHORE_PAUSE)


class Upkeep:
    """The thread that says we are here, takes back what dead workers held, and tidies up.

    Any worker may do this at any time, so none is in charge of it, and what goes wrong with it is
    logged and tried again later: who can claim and finish goes on. Each chore is tried once and
    then waits for its next turn, so that one that fails does not keep the others from theirs, and
    one that takes long keeps them for no longer than its statement may take.
    """

    def __init__(self, desk: Desk, link: Link, worker: str, about: dict[str, object]) -> None:
        self._desk = desk
        self._link = link
        self._worker = worker
        self._about = about
        self._has_brought_all = False
        self._portion = Portion(RECOVER_BATCH, LONG_RECOVERY)
        self._announced = 0.0
        self._overrun = 0  # as announced
        self._announce_chore = Chore("announce_worker", self._announce)
        self._chores = [
            self._announce_chore,
            Chore("bring_forward_jobs", self._bring_forward),  # after saying what we can handle
            Chore("recover_jobs", self._recover),
            Chore("maintain", self._maintain),
        ]

    def run(self) -> None:
        """Go on until the worker stops."""
        stopping = self._desk.stopping
        while not stopping.is_set():
            if len(self._desk.overrun) != self._overrun:
                again = self._announced + ANNOUNCE_AGAIN
                self._announce_chore.due = min(self._announce_chore.due, again)
            for chore in self._chores:
                if clock() >= chore.due and not stopping.is_set():
                    self._do(chore)
            next_due = min(chore.due for chore in self._chores)
            stopping.wait(max(0.0, min(LOOK_PERIOD, next_due - clock())))

    def cancel(self) -> None:
        """Have the server end a chore that is under way; called from another thread."""
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
        self._link.once(lambda conn: call(conn, "announce_worker", **about))
        self._overrun = overrun
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

    def _recover(self) -> float:
        """Take back jobs whose leases ran out, and say when to look for more.

        After a find soon, for there may be more of them than one call takes back; else after a
        hundred times what it took to look, for each look reads the whole table.
        """
        took = 0.0

        def recover(conn: Connection) -> int:
            nonlocal took
            began = clock()
            with self._portion.tried():
                rows = call(conn, "recover_jobs", max_jobs=self._portion.size)
            took = clock() - began
            return rows[0]["recover_jobs"]

        count = self._link.once(recover)
        if not count:
            rest = min(RECOVER_SHARE * took, LONGEST_RECOVER_PERIOD)
            return _about(max(RECOVER_PERIOD, rest))
        log.warning("took back jobs whose leases ran out", extra={"fields": {"jobs": count}})
        return took

    def _maintain(self) -> float:
        self._link.once(lambda conn: call(conn, "maintain"))
        return _about(MAINTAIN_PERIOD)


def _about(seconds: float) -> float:
    """Return these seconds, more or less, so that a fleet does not do the same at one time."""
    return seconds * random.uniform(0.8, 1.2)
