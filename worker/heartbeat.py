"""The thread that extends leases, hears of cancels, and sends progress."""

from datetime import timedelta

import psycopg

from rota.db.gateway import call
from rota.worker.attempt import Attempt
from rota.worker.clock import clock
from rota.worker.desk import Desk
from rota.worker.link import Connection, Link, Portion, advice, passes, shifts
from rota.worker.log import log
from rota.worker.values import text_of

LARGEST_BEAT = 2000  # jobs
NEWS_PERIOD = 1.0  # seconds between two progress reports of one job
LONGEST_NEWS_PERIOD = 30.0  # seconds, for one whose reports meet with errors

HEARTBEAT = """
    select
        h.job_id,
        extract(epoch from h.lease_until - clock_timestamp())::float8,
        h.cancel_requested
    from rota.heartbeat_jobs(%(ids)s::bigint[], %(tokens)s::text[]::uuid[], %(lease)s) as h
"""


class Heartbeat:
    """Extends the leases of all that is held.

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
        self._all = False  # the next beat is for new leases, too
        self._portion = Portion(LARGEST_BEAT)
        self.closed = False

    def run(self) -> None:
        """Beat until closed."""
        self._link.run(lambda conn: None)  # be connected before connections become scarce
        self._next_beat = clock() + self._period
        while not self.closed:
            self._desk.attention.wait(max(0.0, self._next_event() - clock()))
            self._desk.attention.clear()
            if self._all or clock() >= self._next_beat:
                self._next_beat = clock() + self._period
                self._beat()
            self._send_news()

    def beat_soon(self) -> None:
        """Extend all leases soon, and hear which are lost; called from another thread."""
        self._all = True
        self._desk.attention.set()

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
        everything, self._all = self._all, False
        before = clock() - (0 if everything else self._period / 3)
        left = True
        while left:

            def beat(conn: Connection) -> bool:
                with self._portion.tried():
                    return self._beat_portion(conn, before)

            try:
                left = self._link.run(beat)
            except psycopg.Error as error:
                log.error(
                    "the database refused a heartbeat, another will be tried",
                    extra={"fields": {"error": advice(error, self._link.user)}},
                )
                return

    def _beat_portion(self, conn: Connection, before: float) -> bool:
        """Extend some leases that are from before that; return whether there are more of them."""
        asked_at = clock()
        held = [job for job in list(self._desk.held) if not job.lost]
        # Of two leases of one job only the later can be live. Answers go by the job's id.
        latest = {job.id: job for job in sorted(held, key=lambda job: job.leased_at)}
        for job in held:
            if latest[job.id] is not job:
                self._hear(job, asked_at, None)
        due = [job for job in latest.values() if job.leased_at <= before]
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

    def _send_progress(self, job: Attempt) -> None:
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

    def _hear(self, job: Attempt, asked_at: float, answer: tuple[float, bool] | None) -> None:
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
