"""Claims jobs, as many as there is room for, and sleeps when there are none."""

from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from time import sleep  # as it is now, whatever a module makes of it

import psycopg

from worker.desk import Desk
from worker.job import Job, clock, registry
from worker.link import Connection, Link, Pause, Statement
from worker.log import log

LARGEST_CLAIM = 1000  # jobs
LARGEST_PREFETCH = 2000  # jobs
MOST_UNTOLD = 4000  # jobs that have ended and the database was not told; more are not claimed
HORIZON = 0.1  # seconds; a prefetched job is expected to start within this time
STALE = 1.0  # seconds that the oldest prefetched job may wait before they are handed back

QUICK_LOOKS = (0.005, 0.05, 0.25)  # seconds after falling asleep, for jobs that were committing
BREATH = 0.001  # seconds before the next look when the last one found something, at most
REST = 2  # times what that look took
UNKNOWN_DELAY = 5.0  # seconds, doubled each time the same task is met again
LONGEST_UNKNOWN_DELAY = 300.0

CLAIM = """
    select
        c.id, c.token::text, c.task, c.payload::text, c.queue, c.attempt, c.max_retries,
        extract(epoch from c.timeout)::float8, extract(epoch from c.scheduled_for)::float8
    from rota.claim_next_job(
        queues => $1::text[],
        worker => $2::text,
        lease => $3::interval,
        max_jobs => $4::integer
    ) as c
"""


class Ear:
    """Hears of new jobs, and registers as a sleeper, on the connection that claims.

    The server's process for that connection has just been woken to pass on the notification when
    the claim comes, which is then answered a third sooner than by one that sleeps. All this is a
    help only: whatever goes wrong with it, the poll goes on.
    """

    def __init__(self, link: Link, queues: list[str]) -> None:
        self._link = link
        self._queues = queues
        self._pause = Pause()
        self._deaf_until = 0.0
        self._listening: Connection | None = None
        self._asleep: Connection | None = None
        self._heard = False  # something came with the answer to a statement

    @property
    def asleep(self) -> bool:
        """Whether producers notify us: not after the connection has been replaced."""
        return self._asleep is not None and self._link.has(self._asleep)

    def fall_asleep(self) -> bool:
        """Have producers notify us from now on; return whether that is new."""
        if self.asleep or clock() < self._deaf_until:
            return False
        try:
            with self._link.watched():
                conn = self._link.connection()
                if self._link.pooled:
                    self._deaf_until = float("inf")
                    log.info("behind a connection pooler there are no notifications: polling")
                    return False
                if conn is not self._listening:
                    conn.add_notify_handler(self._hear)
                    conn.execute("listen rota_jobs")
                    self._listening = conn
                conn.execute("select rota.begin_sleep(queues => %s)", [self._queues])
        except psycopg.Error as error:
            self._go_deaf(error)
            return False
        self._asleep = conn
        self._pause = Pause()
        return True

    def wake_up(self) -> None:
        """Have producers spare their notifications."""
        if not self.asleep:
            return
        try:
            with self._link.watched():
                self._link.connection().execute(
                    "select rota.end_sleep(queues => %s)", [self._queues]
                )
        except psycopg.Error as error:
            self._go_deaf(error)
        self._asleep = None

    def fileno(self) -> int | None:
        """Return what becomes readable with a notification, or None while deaf."""
        return self._asleep.fileno() if self._asleep is not None and self.asleep else None

    def listen(self) -> bool:
        """Take in what has arrived; return whether it was anything for a sleeper.

        The server would keep for us what we do not take in, and with it the whole cluster's queue
        of notifications, so this goes on while all handlers are busy.
        """
        heard, self._heard = self._heard, False
        if self._listening is None or not self._link.has(self._listening):
            return False
        try:
            self._listening.pgconn.consume_input()
            while self._listening.pgconn.notifies() is not None:
                heard = True
        except psycopg.Error as error:
            self._go_deaf(error)
        return heard and self.asleep

    def _hear(self, notification: psycopg.Notify) -> None:
        self._heard = True

    def _go_deaf(self, error: psycopg.Error) -> None:
        self._asleep = None
        self._link.close()
        self._deaf_until = clock() + self._pause.next()
        log.warning(
            "cannot listen for new jobs, polling",
            extra={"fields": {"sqlstate": error.sqlstate, "error": str(error).strip()}},
        )


class Claimer:
    """The thread that claims.

    Args:
        desk: where the jobs go.
        link: for the claims, which need not be durable.
        ear: for the sleep between them, on the same link.
        worker: our id.
        queues: the queues to serve, each with the number of its jobs that may run here at one
            time, or None.
        concurrency: the number of jobs that may run at one time.
        lease: seconds.
        margin: seconds before its end from which a lease is not trusted.
        poll: seconds between two looks for work in an idle system.
    """

    def __init__(
        self,
        desk: Desk,
        link: Link,
        ear: Ear,
        worker: str,
        queues: dict[str, int | None],
        concurrency: int,
        lease: float,
        margin: float,
        poll: float,
    ) -> None:
        self._desk = desk
        self._link = link
        self._ear = ear
        self._worker = worker
        self._queues = queues
        self._concurrency = concurrency
        self._lease = lease
        self._margin = margin
        self._poll = poll

        self._statement = Statement("claim", CLAIM)
        self._claimed = 0
        self._returned = 0
        self._prefetch = 0  # jobs that may wait here for a handler
        self._rate = 0.0  # handlers returning a second, lately
        self._rated_at = clock()
        self._queued = 0  # jobs for the handlers, in all
        self._batches: deque[tuple[int, float]] = deque()  # _queued after a claim, and when
        self._unknown: dict[str, int] = {}
        self._took = 0.0  # by the last claim, in seconds

    def run(self) -> None:
        """Claim until the desk stops."""
        try:
            self._go_on()
        finally:
            self._link.close()  # and so we do not count as asleep any more

    def _go_on(self) -> None:
        looks = 0  # that found nothing, since we fell asleep
        finds = 0  # in a row
        while not self._desk.stopping.is_set():
            self._ear.listen()
            asked, found, more = self._claim_all()
            if not asked:
                self._ear.wake_up()
                self._wait_for_room()
                continue
            finds = finds + 1 if found else 0
            if more or finds > 1:  # they come in a stream: looking costs less than being called
                self._ear.wake_up()
            if not self._ear.asleep and found:
                looks = 0
            if more:
                continue
            if found:
                sleep(min(BREATH, REST * self._took))
            elif self._ear.fall_asleep():
                looks = 0  # and look once more
            else:
                self._wait(QUICK_LOOKS[looks] if looks < len(QUICK_LOOKS) else self._poll)
                looks += 1

    def _room(self) -> int:
        """Return how many jobs to claim now: none, until that is worth a call."""
        if len(self._desk.in_hand) > self._most_for_a_claim() or self._finisher_is_behind():
            return 0
        return min(self._concurrency + self._prefetch - len(self._desk.in_hand), LARGEST_CLAIM)

    def _finisher_is_behind(self) -> bool:
        """Tell whether handlers are quicker than the database takes in how they ended."""
        return self._desk.done.qsize() > MOST_UNTOLD or self._desk.has_much_to_tell

    def _most_for_a_claim(self) -> int:
        """Return how many jobs may be in hand still when the next are claimed."""
        return self._concurrency + self._prefetch - max(1, self._prefetch // 2)

    def _watch_returns(self) -> None:
        """Set how many jobs may wait here for a handler.

        As many as handlers returned lately in the time of our horizon: where handlers are quick
        the database is asked for large batches, and where they are slow no job waits here that
        another worker could run.
        """
        now = clock()
        returned = self._claimed - len(self._desk.in_hand)
        passed = now - self._rated_at
        if passed < HORIZON / 10:
            return
        rate = (returned - self._returned) / passed
        weight = 0.5 if rate > self._rate else min(1.0, passed / HORIZON)
        self._rate += (rate - self._rate) * weight
        self._rated_at = now
        self._returned = returned
        self._prefetch = min(LARGEST_PREFETCH, int(self._rate * HORIZON))

    def _requests(self) -> Iterator[tuple[list[str], int]]:
        """Yield the claims to make: which queues, and how many jobs."""
        room_of = {
            queue: limit - len(self._desk.of_limited_queue[queue])
            for queue, limit in self._queues.items()
            if limit is not None and limit > len(self._desk.of_limited_queue[queue])
        }
        free = [queue for queue, limit in self._queues.items() if limit is None]
        if self._ear.asleep and room_of:  # one look for all, small enough for each of them
            yield [*free, *room_of], min(self._room(), *room_of.values())
            return
        for queue, room in room_of.items():
            yield [queue], min(self._room(), room)
        if free:
            yield free, self._room()

    def _claim_all(self) -> tuple[int, int, bool]:
        """Claim; return how many jobs we asked for, how many came, and if there may be more."""
        asked = 0
        found = 0
        more = False
        self._watch_returns()
        for queues, most in self._requests():
            if most > 0:
                count = self._claim(queues, most)
                asked += most
                found += count
                more = more or count == most
        return asked, found, more

    def _claim(self, queues: list[str], most: int) -> int:
        arguments = [_array(queues), self._worker, f"{self._lease} seconds", str(most)]

        def claim(conn: Connection) -> list[Job]:
            asked_at = clock()
            rows = self._statement.rows(conn, arguments)
            self._took = clock() - asked_at
            trusted_until = asked_at + self._lease - self._margin
            return [Job(self._desk, asked_at, trusted_until, row) for row in rows]

        jobs = self._link.run(claim)
        self._claimed += len(jobs)
        self._desk.take(jobs)
        known = [job for job in jobs if job.task in registry]
        self._queued += len(known)
        if known:
            self._forget_started()
            self._batches.append((self._queued, clock()))
        for job in known:
            self._desk.ready.put(job)
        sleep(0)  # lets go of the interpreter, for which the handlers' threads wait
        if len(known) < len(jobs):
            self._refuse([job for job in jobs if job.task not in registry])
        return len(jobs)

    def _refuse(self, jobs: list[Job]) -> None:
        """Hand back jobs that this worker cannot run, for others to take.

        The delay grows each time a task is met, so that a backlog of such jobs does not keep this
        worker busy; it stays small at first, for others who know the task wait as long.
        """
        for task in sorted({job.task for job in jobs}):
            times = self._unknown.get(task, 0)
            self._unknown[task] = times + 1
            delay = min(LONGEST_UNKNOWN_DELAY, UNKNOWN_DELAY * 2 ** min(times, 10))
            log.warning(
                "no handler for this task, its jobs are handed back",
                extra={"fields": {"task": task, "seconds": delay}},
            )
            reason = f"worker {self._worker} has no handler for task {task!r}"
            for job in jobs:
                if job.task == task:
                    self._desk.hand_back(job, reason, timedelta(seconds=delay))

    def _wait_for_room(self) -> None:
        """Wait until handlers have returned, and hand back what waited here for too long."""
        self._wait(BREATH if self._finisher_is_behind() else STALE / 2)
        if self._longest_wait() > STALE:
            count = self._desk.hand_back_ready("all handlers of its worker were busy")
            log.info(
                "handlers take longer than expected, jobs are handed back",
                extra={"fields": {"jobs": count}},
            )

    def _longest_wait(self) -> float:
        """Return for how long the oldest job that was not started has waited, in seconds."""
        self._forget_started()
        return clock() - self._batches[0][1] if self._batches else 0.0

    def _forget_started(self) -> None:
        started = self._queued - self._desk.ready.qsize()
        while self._batches and self._batches[0][0] <= started:
            self._batches.popleft()

    def _wait(self, seconds: float) -> None:
        """Wait for this time, a notification, or room where there was none."""
        desk = self._desk
        in_hand = len(desk.in_hand)
        desk.low_water = self._most_for_a_claim()
        if in_hand <= desk.low_water:
            full = any(
                len(jobs) >= self._queues[queue] for queue, jobs in desk.of_limited_queue.items()
            )
            desk.low_water = in_hand - 1 if full else -1
        if len(desk.in_hand) > desk.low_water and not self._ear.listen():
            desk.room.wait(seconds, self._ear.fileno())
        desk.low_water = -1


def _array(names: list[str]) -> str:
    """Return names as an array literal."""
    escaped = (name.replace("\\", "\\\\").replace('"', '\\"') for name in names)
    return "{" + ",".join(f'"{name}"' for name in escaped) + "}"
