"""Tells the database how attempts ended: in batches that grow with the load, one when idle."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from queue import Empty
from typing import Any

import psycopg

from db.gateway import call
from worker.desk import Desk
from worker.job import Job, storable
from worker.link import LOCKED, Connection, Link

log = logging.getLogger("rota.worker")

LARGEST_BATCH = 1000  # jobs
LARGEST_BATCH_BYTES = 4_000_000
LINES = 20  # so many jobs a second get a line each in the log, the others a line in sum

FINISH = """
    select f.job_id, f.outcome
    from rota.finish_jobs(
        %(ids)s::text::bigint[],
        %(tokens)s::text::uuid[],
        %(errors)s::text[],
        %(results)s::text[]::jsonb[]
    ) as f
"""

RELEASE = """
    select r.job_id, 'RELEASED'
    from unnest(%(ids)s::text::bigint[], %(tokens)s::text::uuid[], %(delays)s::interval[],
        %(reasons)s::text[]) as u(job_id, token, delay, reason)
    cross join lateral rota.release_job(u.job_id, u.token, u.delay, u.reason) as r
"""

RELEASE_UNHANDLED = """
    select r.job_id, r.outcome
    from rota.release_unhandled_jobs(
        %(ids)s::text::bigint[],
        %(tokens)s::text::uuid[],
        %(delay)s,
        %(if_known)s,
        %(reason)s
    ) as r
"""

Outcomes = list[tuple[int, str]]


class Finisher:
    """The thread that finishes, on a connection whose commits are durable.

    A call may be repeated with the same tokens until it is answered, for the database gives the
    same answer again. A value that it refuses fails that one attempt and holds up no other.
    """

    def __init__(self, desk: Desk, link: Link) -> None:
        self._desk = desk
        self._link = link
        self._blocked: list[Job] = []  # rows that somebody else has locked
        self._summary: Counter[str] = Counter()
        self._lines = LINES
        self._summed_up_at = time.monotonic()

    def run(self) -> None:
        """Finish what is done, until a None comes."""
        self._link.run(lambda conn: None)  # be connected before connections become scarce
        going = True
        while going or self._blocked:
            batch, going = self._next_batch() if going else ([], False)
            batch += self._blocked
            self._blocked = []
            if batch:
                self._finish(batch)
            self._sum_up()

    def _next_batch(self) -> tuple[list[Job], bool]:
        """Return what is done by now, after waiting for one, and whether more may follow."""
        batch: list[Job] = []
        size = 0
        get = self._desk.done.get
        try:
            job = get(timeout=1.0)
            while job is not None:
                batch.append(job)
                if job.result is not None:
                    size += len(job.result)
                if len(batch) == LARGEST_BATCH or size > LARGEST_BATCH_BYTES:
                    return batch, True
                job = get(block=False)
        except Empty:
            return batch, True
        return batch, False

    def _finish(self, batch: list[Job]) -> None:
        released = [job for job in batch if job.handed_back is not None]
        special = [
            job
            for job in batch
            if job.handed_back is None and (job.retry_in is not None or not job.retry)
        ]
        plain = batch
        if released or special:
            apart = {*released, *special}
            plain = [job for job in batch if job not in apart]
        if plain:
            self._tell(plain, _finish_together, _finish_alone)
        for job in special:
            self._tell([job], _finish_alone_all, _finish_alone)
        unhandled: dict[tuple[Any, ...], list[Job]] = {}
        for job in released:
            if job.if_known is not None:
                unhandled.setdefault((job.handed_back, job.if_known, job.error), []).append(job)
        for jobs in unhandled.values():
            self._tell(jobs, _release_unhandled, lambda conn, job: _release_unhandled(conn, [job]))
        released = [job for job in released if job.if_known is None]
        if released:
            self._tell(released, _release_together, _release_alone)

    def _tell(
        self,
        jobs: list[Job],
        together: Callable[[Connection, list[Job]], Outcomes],
        alone: Callable[[Connection, Job], Outcomes],
    ) -> None:
        """Tell the database about these jobs in one call, or if it refuses that, one by one.

        A job whose row is locked by somebody else comes back with the next batch.
        """
        try:
            outcomes = self._link.run(lambda conn: together(conn, jobs), unless=LOCKED)
        except psycopg.Error:
            outcomes = [outcome for job in jobs for outcome in self._tell_alone(job, alone)]
        if self._blocked:
            jobs = [job for job in jobs if job not in self._blocked]
        self._desk.forget(jobs)
        self._note(jobs, outcomes)

    def _tell_alone(self, job: Job, alone: Callable[[Connection, Job], Outcomes]) -> Outcomes:
        """Tell the database about one job; if it refuses the values, that the attempt failed."""
        for _ in range(2):
            try:
                return self._link.run(lambda conn: alone(conn, job), unless=LOCKED)
            except psycopg.Error as error:
                if error.sqlstate == LOCKED and not self._desk.closing.is_set():
                    self._blocked.append(job)
                    return []
                if error.sqlstate in ("RTC02", "RTC03"):
                    return [(job.id, "LEASE_LOST" if error.sqlstate == "RTC02" else "CONFLICT")]
                refusal = storable(f"the database refused how this attempt ended: {error}")
                job.error = refusal.encode("ascii", "replace").decode()
                job.result = job.retry_in = None
                log.error(
                    "the database refused how an attempt ended",
                    extra={"fields": {"job_id": job.id, "sqlstate": error.sqlstate}},
                )
        return [(job.id, "NOT FINISHED")]  # its lease will run out

    def _note(self, jobs: list[Job], outcomes: Outcomes) -> None:
        """Log what became of the jobs: one by one when they are few, else in sum."""
        if len(jobs) > self._lines and not log.isEnabledFor(logging.DEBUG):
            self._summary.update(outcome for _, outcome in outcomes)
            return
        level = logging.INFO if len(jobs) <= self._lines else logging.DEBUG
        self._lines -= len(jobs)
        became = dict(outcomes)
        for job in jobs:
            outcome = became.get(job.id, "LEASE_LOST")
            fields: dict[str, Any] = {
                "job_id": job.id,
                "task": job.task,
                "queue": job.queue,
                "attempt": job.attempt,
                "outcome": outcome,
                "seconds": round(job.seconds, 4),
            }
            if job.error is not None:
                fields["error"] = job.error.rpartition("\n")[2][:200]
            ended = "attempt succeeded" if job.error is None else "attempt failed"
            log.log(
                logging.WARNING if outcome in ("LEASE_LOST", "CONFLICT", "NOT FINISHED") else level,
                ended if job.handed_back is None else "job handed back",
                extra={"fields": fields},
            )

    def _sum_up(self) -> None:
        now = time.monotonic()
        if now - self._summed_up_at < 1:
            return
        if self._summary:
            log.info("attempts ended", extra={"fields": dict(self._summary)})
        self._summary.clear()
        self._lines = LINES
        self._summed_up_at = now


def _array(items: list[str]) -> str:
    """Return an array literal of texts that need no quotes: ids and tokens."""
    return "{" + ",".join(items) + "}"


def _finish_together(conn: Connection, jobs: list[Job]) -> Outcomes:
    errors = [job.error for job in jobs]
    results = [job.result for job in jobs]
    arguments = {
        "ids": _array([str(job.id) for job in jobs]),
        "tokens": _array([job.token for job in jobs]),
        "errors": errors if any(error is not None for error in errors) else None,
        "results": results if any(result is not None for result in results) else None,
    }
    return conn.execute(FINISH, arguments, prepare=True, binary=True).fetchall()


def _finish_alone(conn: Connection, job: Job) -> Outcomes:
    arguments: dict[str, Any] = {"error": job.error}
    if job.result is not None:
        arguments["result"] = job.result
    if job.retry_in is not None:
        arguments["retry_in"] = job.retry_in
    if not job.retry:
        arguments["retry"] = False
    rows = call(conn, "finish_job", job_id=job.id, token=job.token, **arguments)
    return [(row["job_id"], row["state"]) for row in rows]


def _finish_alone_all(conn: Connection, jobs: list[Job]) -> Outcomes:
    return [outcome for job in jobs for outcome in _finish_alone(conn, job)]


def _release_together(conn: Connection, jobs: list[Job]) -> Outcomes:
    arguments = {
        "ids": _array([str(job.id) for job in jobs]),
        "tokens": _array([job.token for job in jobs]),
        "delays": [job.handed_back for job in jobs],
        "reasons": [job.error for job in jobs],
    }
    return conn.execute(RELEASE, arguments).fetchall()


def _release_unhandled(conn: Connection, jobs: list[Job]) -> Outcomes:
    arguments = {
        "ids": _array([str(job.id) for job in jobs]),
        "tokens": _array([job.token for job in jobs]),
        "delay": jobs[0].handed_back,
        "if_known": jobs[0].if_known,
        "reason": jobs[0].error,
    }
    return conn.execute(RELEASE_UNHANDLED, arguments).fetchall()


def _release_alone(conn: Connection, job: Job) -> Outcomes:
    rows = call(
        conn,
        "release_job",
        job_id=job.id,
        token=job.token,
        delay=job.handed_back,
        reason=job.error,
    )
    return [(row["job_id"], "RELEASED") for row in rows]
