"""Tells the database how attempts ended: in batches that grow with the load, one when idle."""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from queue import Empty
from typing import Any

import psycopg

from rota.worker.attempt import Attempt
from rota.worker.clock import clock
from rota.worker.desk import Desk
from rota.worker.link import (
    LOCKED,
    OUT_OF_TIME,
    SHIFTS,
    Connection,
    Link,
    Pause,
    Portion,
    is_hopeless,
    passes,
    shifts,
)
from rota.worker.log import log
from rota.worker.values import storable, text_of

LARGEST_BATCH = 1000  # jobs
LARGEST_BATCH_BYTES = 4_000_000
LONG_CALL = 5.0  # seconds; after one that took longer, the next batches are smaller
SHARE = 4  # times what a try took before the same jobs are tried again, at least
LINES = 20  # so many jobs a second get a line each in the log, the others a line in sum

NOT_FINISHED = "NOT FINISHED"
LATE = "RTC02"
PAST = {LATE: "LEASE_LOST", "RTC03": "CONFLICT"}  # what became of one that was told too late

FINISH = """
    select f.job_id, f.outcome
    from rota.finish_jobs(
        %(ids)s::text::bigint[],
        %(tokens)s::text::uuid[],
        %(errors)s::text[],
        %(results)s::text[]::jsonb[]
    ) as f
"""

# In the order of ids, as every batch takes its locks.
FINISH_EACH = """
    select f.job_id, f.state
    from unnest(%(ids)s::text::bigint[], %(tokens)s::text::uuid[], %(errors)s::text[],
        %(results)s::text[]::jsonb[], %(retries_in)s::interval[], %(retries)s::boolean[],
        %(nexts)s::text[]::jsonb[])
        as u(job_id, token, error, result, retry_in, retry, next)
    cross join lateral rota.finish_job(
        job_id => u.job_id,
        token => u.token,
        error => u.error,
        result => u.result,
        retry_in => u.retry_in,
        retry => u.retry,
        next => u.next
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

# Which rows are locked by others: heartbeat_jobs passes by those and answers with the leases that
# they have, while it extends all others to this long from now at least.
LOOK_FOR_LOCKS = """
    select
        h.job_id,
        extract(epoch from h.lease_until - clock_timestamp())::float8,
        h.cancel_requested,
        h.lease_until < statement_timestamp() + %(lease)s::interval
    from rota.heartbeat_jobs(
        %(ids)s::text::bigint[], %(tokens)s::text::uuid[], %(lease)s::interval
    ) as h
"""

CAN_FINISH = "select from rota.finish_jobs('{}'::bigint[], '{}'::uuid[])"

Outcomes = list[tuple[int, str]]
Tell = Callable[[Connection, list[Attempt]], Outcomes]


class Parcel:
    """Jobs that the database is told about in one call, in one transaction."""

    def __init__(self, tell: Tell, jobs: list[Attempt]) -> None:
        self.tell = tell
        self.jobs = jobs
        self.pause = Pause()
        self.due = 0.0
        self.told_again = False  # since what it takes to finish was away, and came back
        self.refused = False  # whether the one job in it fails since it was refused before
        self.locked = False  # whether each of its rows was locked by others at the last look

    def part(self, jobs: list[Attempt]) -> "Parcel":
        """Return a parcel with some of these jobs, that has waited as this one has."""
        part = Parcel(self.tell, jobs)
        part.pause.failures = self.pause.failures
        return part

    def halves(self) -> list["Parcel"]:
        """Return two parcels with these jobs."""
        middle = len(self.jobs) // 2
        return [self.part(self.jobs[:middle]), self.part(self.jobs[middle:])]


class Finisher:
    """The thread that finishes, on a connection whose commits are durable.

    A call may be repeated with the same tokens until it is answered, for the database gives the
    same answer again. What the database refuses is divided until the job that it is about stands
    alone, fails with that, and holds up no other. Rows that others have locked are set apart, and
    looked at again without waiting for their locks. What waits so takes turns with what is new, so
    that no job waits for another's row for longer than one call's wait for a lock.
    """

    def __init__(self, desk: Desk, link: Link, lease: float) -> None:
        self._desk = desk
        self._link = link
        self._lease = timedelta(seconds=lease)
        self._apart: list[Parcel] = []  # what could not be told at once
        self._batch: list[Parcel] = []  # what is being told
        self._portion = Portion(LARGEST_BATCH, LONG_CALL)
        self._pause = Pause()  # while the database is away
        self._took = 0.0  # by the last call, in seconds
        self._going = True
        self._summary: Counter[str] = Counter()
        self._lines = LINES
        self._summed_up_at = clock()

    def run(self) -> None:
        """Finish what is done, until a None comes."""
        self._link.run(lambda conn: None)  # be connected before connections become scarce
        self._put_back()
        while self._going or self._apart:
            self._batch = self._next_batch()
            self._deliver_batch()
            self._deliver_one_apart()
            self._deliver_batch()
            self._sum_up()

    def _deliver_batch(self) -> None:
        while self._batch:
            self._deliver(self._batch.pop(0))

    def _put_back(self) -> None:
        """Have told what an error has kept from being told, where the worker goes on after it."""
        self._apart += self._batch
        self._batch = []

    def _next_batch(self) -> list[Parcel]:
        """Return what is done by now, after waiting for it, or for something apart to be due."""
        batch: list[Attempt] = []
        size = 0
        patience = min([1.0, *(parcel.due - clock() for parcel in self._apart)])
        if not self._going:
            self._desk.closing.wait(max(0.0, patience))
            return []
        with suppress(Empty):
            job = self._desk.done.get(timeout=max(0.0, patience))
            while job is not None:
                batch.append(job)
                size += sum([len(it or "") for it in (job.result, job.error, job.following)])
                if len(batch) >= self._portion.size or size > LARGEST_BATCH_BYTES:
                    return self._parcels(batch)
                job = self._desk.done.get(block=False)
            self._going = False
        return self._parcels(batch)

    def _parcels(self, batch: list[Attempt]) -> list[Parcel]:
        if self._desk.metrics is not None:
            self._desk.metrics.ended(batch)
        if away := [job for job in batch if job.away is not None]:  # the database knows already
            self._settle(away, [(job.id, job.away or "") for job in away])
            batch = [job for job in batch if job.away is None]
        return _parcels(batch)

    def _deliver_one_apart(self) -> None:
        """Try again what could not be told before: the parcel that is due for the longest time."""
        if not self._apart:
            return
        parcel = min(self._apart, key=lambda parcel: parcel.due)
        if parcel.due > clock() and not self._desk.closing.is_set():
            return
        self._apart.remove(parcel)
        if parcel.locked:
            self._part_locked(parcel)
        else:
            self._deliver(parcel)

    def _deliver(self, parcel: Parcel) -> None:
        """Tell the database about these jobs, or find out why that cannot be done."""
        began = clock()
        try:
            with self._portion.tried():
                outcomes = self._link.once(lambda conn: parcel.tell(conn, parcel.jobs))
        except psycopg.Error as error:
            self._took = clock() - began
            self._deliver_later(parcel, error)
        except Exception as error:  # a value that the driver cannot send
            self._divide(parcel, error)
        else:
            self._pause = Pause()
            self._settle(parcel.jobs, outcomes)

    def _deliver_later(self, parcel: Parcel, error: psycopg.Error) -> None:
        if error.sqlstate == LOCKED:
            self._part_locked(parcel)
        elif error.sqlstate == OUT_OF_TIME:
            self._put_apart(*(parcel.halves() if len(parcel.jobs) > 1 else [parcel]))
        elif passes(error):
            self._apart.append(parcel)
            self._link.wait_after(error, self._pause)
        elif shifts(error) and parcel.pause.failures < SHIFTS:
            self._put_apart(parcel)
        else:
            self._divide(parcel, error)

    def _part_locked(self, parcel: Parcel) -> None:
        """Set apart the jobs whose rows others have locked, and deliver the rest."""
        began = clock()
        try:
            locked = self._link.once(lambda conn: self._locked_rows(conn, parcel.jobs))
        except psycopg.Error:  # the whole table may be locked
            self._put_apart(parcel)
            return
        self._took = clock() - began
        free = [job for job in parcel.jobs if job.id not in locked]
        if len(free) == len(parcel.jobs) and not parcel.locked:  # it is about something else
            self._put_apart(*(parcel.halves() if len(free) > 1 else [parcel]))
            return
        if len(free) < len(parcel.jobs):
            rest = parcel.part([job for job in parcel.jobs if job.id in locked])
            rest.locked = True
            self._put_apart(rest)
        if free:
            self._deliver(Parcel(parcel.tell, free))

    def _put_apart(self, *parcels: Parcel) -> None:
        """Have these tried again, after a pause; not when there is no more time for it.

        The pause is longer than what the last try took, so that most time is left for others.
        """
        for parcel in parcels:
            if self._desk.closing.is_set():
                self._note(parcel.jobs, [(job.id, NOT_FINISHED) for job in parcel.jobs])
                continue
            parcel.due = clock() + parcel.pause.next() + SHARE * self._took
            self._apart.append(parcel)

    def _divide(self, parcel: Parcel, error: Exception) -> None:
        """Find the job that the database refuses, and fail it with that.

        Raises:
            psycopg.Error: it is not about a job; nothing can be finished here any more.
        """
        if len(parcel.jobs) > 1:
            self._check_that_we_can_finish(parcel, error)
            self._batch[:0] = parcel.halves()
            return
        [job] = parcel.jobs
        code = error.sqlstate if isinstance(error, psycopg.Error) else None
        # That one of the jobs that are to follow has a unique key that is taken has the same code.
        if code in PAST and (job.following is None or code == LATE):
            self._settle([job], [(job.id, PAST[code])])
            return
        could_not = self._check_that_we_can_finish(parcel, error)
        if could_not and not parcel.told_again:  # but now we can, and so it may not be the job's
            parcel.told_again = True
            self._batch.insert(0, parcel)
            return
        log.error(
            "the database refused how an attempt ended",
            extra={"fields": {"job_id": job.id, "sqlstate": code, "error": text_of(error)}},
        )
        if parcel.refused:
            self._settle([job], [(job.id, NOT_FINISHED)])  # its lease will run out
            return
        refusal = storable(f"the database refused how this attempt ended: {text_of(error)}")
        job.error = refusal.encode("ascii", "replace").decode()
        job.result = job.retry_in = job.following = None
        [again] = _parcels([job])
        again.refused = True
        self._deliver(again)

    def _check_that_we_can_finish(self, parcel: Parcel, error: Exception) -> bool:
        """Raise if it is not about the jobs of a parcel that they are refused.

        Returns:
            Whether nothing could be finished when they were, which has passed.
        """
        if not is_hopeless(error):
            return False
        try:
            self._link.run(lambda conn: conn.execute(CAN_FINISH))
        except psycopg.Error:
            self._batch.insert(0, parcel)
            raise
        return True

    def _locked_rows(self, conn: Connection, jobs: list[Attempt]) -> set[int]:
        arguments = {**_pairs(jobs), "lease": self._lease}
        rows = conn.execute(LOOK_FOR_LOCKS, arguments).fetchall()
        return {job_id for job_id, _, _, is_locked in rows if is_locked}

    def _settle(self, jobs: list[Attempt], outcomes: Outcomes) -> None:
        if self._desk.metrics is not None:
            self._desk.metrics.told(jobs, outcomes)
        self._desk.forget(jobs)
        self._note(jobs, outcomes)

    def _note(self, jobs: list[Attempt], outcomes: Outcomes) -> None:
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
        now = clock()
        if now - self._summed_up_at < 1:
            return
        if self._summary:
            log.info("attempts ended", extra={"fields": dict(self._summary)})
        self._summary.clear()
        self._lines = LINES
        self._summed_up_at = now


def _parcels(jobs: list[Attempt]) -> list[Parcel]:
    """Return these jobs by the call that tells of them."""
    released = [job for job in jobs if job.handed_back is not None and job.if_known is None]
    unhandled = [job for job in jobs if job.if_known is not None]
    followed = [job for job in jobs if job.following is not None]
    special = [
        job
        for job in jobs
        if job.handed_back is None and (job.retry_in is not None or not job.retry)
    ]
    if released or unhandled or special or followed:
        apart = {*released, *unhandled, *special, *followed}
        jobs = [job for job in jobs if job not in apart]
    kinds: list[tuple[Tell, list[Attempt]]] = [
        (_finish, jobs),
        (_finish_each, special),
        (_release, released),
    ]
    alike: dict[
        tuple[Any, ...], list[Attempt]
    ] = {}  # one call has one delay and one reason for all
    for job in unhandled:
        alike.setdefault((job.handed_back, job.if_known, job.error), []).append(job)
    kinds += [(_release_unhandled, some) for some in alike.values()]
    kinds += [(_finish_each, [job]) for job in followed]  # each has locks of its own to take
    return [Parcel(tell, kind) for tell, kind in kinds if kind]


def _array(items: list[str]) -> str:
    """Return an array literal of texts that need no quotes: ids and tokens."""
    return "{" + ",".join(items) + "}"


def _pairs(jobs: list[Attempt]) -> dict[str, Any]:
    return {
        "ids": _array([str(job.id) for job in jobs]),
        "tokens": _array([job.token for job in jobs]),
    }


def _finish(conn: Connection, jobs: list[Attempt]) -> Outcomes:
    errors = [job.error for job in jobs]
    results = [job.result for job in jobs]
    arguments = {
        **_pairs(jobs),
        "errors": errors if any(error is not None for error in errors) else None,
        "results": results if any(result is not None for result in results) else None,
    }
    return conn.execute(FINISH, arguments, prepare=True, binary=True).fetchall()


def _finish_each(conn: Connection, jobs: list[Attempt]) -> Outcomes:
    jobs = sorted(jobs, key=lambda job: job.id)
    arguments = {
        **_pairs(jobs),
        "errors": [job.error for job in jobs],
        "results": [job.result for job in jobs],
        "retries_in": [job.retry_in for job in jobs],
        "retries": [job.retry for job in jobs],
        "nexts": [job.following for job in jobs],
    }
    return conn.execute(FINISH_EACH, arguments).fetchall()


def _release(conn: Connection, jobs: list[Attempt]) -> Outcomes:
    jobs = sorted(jobs, key=lambda job: job.id)
    arguments = {
        **_pairs(jobs),
        "delays": [job.handed_back for job in jobs],
        "reasons": [job.error for job in jobs],
    }
    return conn.execute(RELEASE, arguments).fetchall()


def _release_unhandled(conn: Connection, jobs: list[Attempt]) -> Outcomes:
    arguments = {
        **_pairs(jobs),
        "delay": jobs[0].handed_back,
        "if_known": jobs[0].if_known,
        "reason": jobs[0].error,
    }
    return conn.execute(RELEASE_UNHANDLED, arguments).fetchall()
