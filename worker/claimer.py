"""Claims jobs, as many as there is room for, and sleeps when there are none."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from time import sleep  # as it is now, whatever a module makes of it

import psycopg

from rota.db.gateway import call
from rota.storable import array_literal
from rota.worker.attempt import Attempt, Clerk
from rota.worker.clock import clock
from rota.worker.desk import Desk
from rota.worker.floor import NEED
from rota.worker.link import OUT_OF_TIME, Connection, Link, Pause, Statement
from rota.worker.log import log
from rota.worker.options import Options
from rota.worker.tasks import registry

LARGEST_CLAIM = 1000  # jobs
LARGEST_PREFETCH = 2000  # jobs
MOST_UNTOLD = 4000  # jobs that have ended and the database was not told; more are not claimed
MOST_BYTES = 32 * 2**20  # of payloads, headers and untold results, a claim included; but what
# is running may take more, and of any size there is one job
HEAVY = MOST_BYTES // 2  # so many are held that no more is fetched before it can run
HORIZON = 0.1  # seconds; a prefetched job is expected to start within this time
STALE = 1.0  # seconds that the oldest prefetched job may wait before they are handed back

LONGEST_POLL = 86_400.0  # seconds; the database looks no further ahead for what will be due
QUICK_LOOKS = (0.005, 0.05, 0.25)  # seconds after falling asleep, for jobs that were committing
BREATH = 0.001  # seconds before the next look when the last one found something, at most
REST = 2  # times what that look took
UNKNOWN_DELAY = 5.0  # seconds, at least, that a job is put off if no worker has a handler for it,
KNOWN_DELAY = 0.5  # or if some worker has one,
LONGEST_UNKNOWN_DELAY = 300.0  # and at most
REFUSALS = 1000  # jobs a second that we hand back for want of a handler, about
UNKNOWN_LINES_PERIOD = 60.0  # seconds between two lines in the log about one such task

OUT_OF_MEMORY = "53200"

# One row without a job says that there is none, and in place of a timeout in how many seconds the
# next one is due.
CLAIM = """
    select
        c.id, c.token::text, c.task, c.payload::text, c.queue, c.attempt, c.max_retries,
        extract(epoch from case
            when c.id is null
                then rota.next_due_in(queues => $1::text[], within => $5::interval)
            else c.timeout
        end)::float8,
        extract(epoch from c.scheduled_for)::float8,
        c.run,
        c.headers::text,
        c.key
    from (select) as one
    left join rota.claim_next_job(
        queues => $1::text[],
        worker => $2::text,
        lease => $3::interval,
        max_jobs => $4::integer,
        max_bytes => $6::bigint
    ) as c on true
"""


class Ear:
    """Hears of new jobs, and registers as a sleeper, on the connection that claims.

    The server's process for that connection has just been woken to pass on the notification when
    the claim comes, which is then answered a third sooner than by one that sleeps. All this is a
    help only: whatever goes wrong with it, the poll goes on.
    """

    def __init__(self, link: Link, queues: list[str], poll: float) -> None:
        self._link = link
        self._sleep = {"queues": queues, "longest": timedelta(seconds=poll)}
        self._refused = False  # another session had one of the locks, and we said so
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
                (answer,) = call(conn, "begin_sleep", **self._sleep)
        except psycopg.Error as error:
            self._go_deaf(error)
            return False
        if not answer["begin_sleep"]:
            self._deaf_until = clock() + self._pause.next()
            if not self._refused:
                log.warning(
                    "another session holds an advisory lock by which workers say that they sleep:"
                    " polling, until it lets go"
                )
            self._refused = True
            return False
        self._refused = False
        self._asleep = conn
        self._pause = Pause()
        return True

    def wake_up(self) -> None:
        """Have producers spare their notifications."""
        if not self.asleep:
            return
        try:
            with self._link.watched():
                call(self._link.connection(), "end_sleep", **self._sleep)
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


@dataclass
class Unknown:
    """A task without a handler here: when we first and last met it, and last said so."""

    first: float
    last: float = 0.0
    said: float = -math.inf


class Claimer:
    """The thread that claims.

    Args:
        desk: where the jobs go.
        link: for the claims, which need not be durable.
        ear: for the sleep between them, on the same link.
        worker: our id.
        options: what the worker was asked for.
        clerk: who asks the database for handlers.
    """

    def __init__(
        self,
        desk: Desk,
        link: Link,
        ear: Ear,
        worker: str,
        options: Options,
        clerk: Clerk,
    ) -> None:
        self._desk = desk
        self._floor = desk.floor
        self._clerk = clerk
        self._link = link
        self._ear = ear
        self._worker = worker
        self._limits = options.limits
        self._free = [queue for queue in options.queues if queue not in self._limits]
        self._free_array = array_literal(self._free)
        self._concurrency = options.concurrency
        self._lease = options.lease
        self._margin = options.margin
        self._poll = min(options.poll, LONGEST_POLL)

        self._statement = Statement("claim", CLAIM)
        self._claimed = 0
        self._returned = 0
        self._prefetch = 0  # jobs that may wait here for a handler
        self._rate = 0.0  # handlers returning a second, lately
        self._rated_at = clock()
        self._took = 0.0  # by the last claim, in seconds
        self._largest = LARGEST_CLAIM  # less after claims that were not done in time
        self._unknown: dict[str, Unknown] = {}
        self._refused_until = 0.0  # when we have handed back all we did, at the pace of REFUSALS

    def run(self) -> None:
        """Claim until the desk stops."""
        try:
            self._go_on()
        finally:
            self._link.close()  # and so we do not count as asleep any more

    def _go_on(self) -> None:
        looks = 0  # after falling asleep, for jobs that were committing
        finds = 0  # in a row
        while not self._desk.stopping.is_set():
            self._ear.listen()
            asked, found, more, due = self._claim_all()
            if not asked:
                self._desk.waits_since = min(self._desk.waits_since, clock())
                if not self._finisher_is_behind():
                    self._desk.needs_until = clock() + NEED  # nobody knows, so it is to have a look
                self._ear.wake_up()
                self._wait_for_room()
                continue
            self._desk.waits_since = math.inf
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
                nap = QUICK_LOOKS[looks] if looks < len(QUICK_LOOKS) else self._poll
                self._wait(min(nap, due))
                looks += nap <= due

    def _room(self) -> int:
        """Return how many jobs to claim now: none, until that is worth a call."""
        room, least = self._space()
        if room < least or self._finisher_is_behind():
            return 0
        return min(room, LARGEST_CLAIM)

    def _space(self) -> tuple[int, int]:
        """Return how many jobs more may be in hand, and for how many a claim is worth a call."""
        self._desk.prefetch = 0 if self._is_heavy() else self._prefetch
        room, may_wait = self._floor.room(self._desk)
        return room, max(1, may_wait // 2)

    def _is_heavy(self) -> bool:
        """Tell whether what we hold is so large that only jobs are claimed that can run at once."""
        return self._desk.bytes_held > HEAVY

    def _finisher_is_behind(self) -> bool:
        """Tell whether handlers are quicker than the database takes in how they ended."""
        return self._desk.done.qsize() > MOST_UNTOLD or (
            self._is_heavy() and self._desk.bytes_untold > HEAVY
        )

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

    def _requests(self) -> Iterator[tuple[str, list[str], int]]:
        """Yield the claims to make: an array of queues, the limited ones in it, how many jobs."""
        room_of = {queue: self._floor.room_of(queue) for queue in self._limits}
        open_now = [queue for queue, room in room_of.items() if room > 0]
        if self._ear.asleep and open_now:  # one look for all, small enough for each of them
            most = min(self._room(), *(room_of[queue] for queue in open_now))
            yield array_literal([*self._free, *open_now]), open_now, most
            return
        for queue in open_now:
            yield array_literal([queue]), [queue], min(self._room(), room_of[queue])
        if self._free:
            yield self._free_array, [], self._room()

    def _claim_all(self) -> tuple[int, int, bool, float]:
        """Claim what there is room for.

        Returns:
            How many jobs we asked for, how many came, whether there may be more, and in how many
            seconds the next one is due, if that is known.
        """
        asked = 0
        found = 0
        more = False
        due = math.inf
        self._watch_returns()
        for queues, limited, most in self._requests():
            if most > 0:
                count, may_be_more, next_due = self._claim(queues, limited, most)
                asked += most
                found += count
                more = more or may_be_more
                due = min(due, next_due)
        return asked, found, more, due

    def _claim(self, queues: str, limited: list[str], most: int) -> tuple[int, bool, float]:
        """Claim from these queues; return what _claim_all does, but for the first."""
        desk, granted = self._desk, 0

        def claim(conn: Connection) -> tuple[list[Attempt], int, int, float]:
            nonlocal granted
            give_back()  # what a try before this one has left
            jobs_asked = granted = self._floor.ask_of(limited, min(most, self._largest))
            if not jobs_asked:
                return [], 0, 0, math.inf
            desk.asked, desk.asked_at = jobs_asked, clock()
            bytes_asked = max(1, MOST_BYTES - desk.bytes_held)
            arguments = [
                queues,
                self._worker,
                f"{self._lease} seconds",
                str(jobs_asked),
                f"{self._poll} seconds",
                str(bytes_asked),
            ]
            asked_at = clock()
            try:
                rows = self._statement.rows(conn, arguments)
            except psycopg.Error as error:
                give_back()
                self._ask_for_less(error, jobs_asked, clock() - asked_at)
                raise
            self._took = clock() - asked_at
            if self._desk.metrics is not None:
                self._desk.metrics.claimed(self._took)
            if jobs_asked == self._largest and self._took < self._link.patience / 4:
                self._largest = min(2 * self._largest, LARGEST_CLAIM)
            if rows[0][0] is None:  # no job
                due = rows[0][7]
                return [], jobs_asked, bytes_asked, math.inf if due is None else due
            trusted_until = asked_at + self._lease - self._margin
            report = self._desk.report_progress
            clerk = self._clerk
            jobs = [Attempt(row, asked_at, trusted_until, report, clerk) for row in rows]
            return jobs, jobs_asked, bytes_asked, math.inf

        def give_back() -> None:
            nonlocal granted
            desk.asked = 0
            self._floor.give_back(limited, granted)
            granted = 0

        try:
            jobs, jobs_asked, bytes_asked, due = self._link.run(claim)
            more = bool(jobs) and (desk.take(jobs) >= bytes_asked or len(jobs) == jobs_asked)
            desk.needs_until = clock() + NEED if more else 0.0
        finally:
            give_back()
        if not jobs:
            return 0, False, due
        self._claimed += len(jobs)
        known = [job for job in jobs if job.task in registry]
        if known:
            self._floor.line_up(known)
        sleep(0)  # lets go of the interpreter, for which the handlers' threads wait
        if len(known) < len(jobs):
            self._refuse([job for job in jobs if job.task not in registry])
        return len(jobs), more, due

    def _ask_for_less(self, error: psycopg.Error, asked: int, seconds: float) -> None:
        """Halve what we ask for at once after a claim that took too long, or too much memory.

        At the same size it might never be done. It grows again with claims that are quick.
        """
        if error.sqlstate in (OUT_OF_TIME, OUT_OF_MEMORY) or seconds >= self._link.patience:
            self._largest = max(1, asked // 2)

    def _refuse(self, jobs: list[Attempt]) -> None:
        """Hand back jobs that this worker cannot run, for others to take.

        How long they are put off grows with the time since we first met their task, as long as
        nobody else is known to have a handler either. It does not grow with the number of batches
        in which they come: a few jobs do not wait for long because they came one by one. Of many
        jobs the later ones are put off for longer, so that a backlog keeps nobody busy.
        """
        now = clock()
        lately = now - 2 * LONGEST_UNKNOWN_DELAY
        self._unknown = {task: met for task, met in self._unknown.items() if met.last > lately}
        self._refused_until = max(self._refused_until, now) + len(jobs) / REFUSALS
        for task in sorted({job.task for job in jobs}):
            met = self._unknown.setdefault(task, Unknown(now))
            met.last = now
            busy = self._refused_until - now
            delay = min(LONGEST_UNKNOWN_DELAY, max(UNKNOWN_DELAY, now - met.first, busy))
            if_known = min(LONGEST_UNKNOWN_DELAY, max(KNOWN_DELAY, busy))
            put_off = timedelta(seconds=delay), timedelta(seconds=if_known)
            if now >= met.said + UNKNOWN_LINES_PERIOD:
                met.said = now
                log.warning(
                    "no handler for this task, its jobs are handed back",
                    extra={"fields": {"task": task, "seconds": delay}},
                )
            reason = f"worker {self._worker} has no handler for task {task!r}"
            for job in jobs:
                if job.task == task:
                    self._desk.hand_back(job, reason, *put_off)

    def _wait_for_room(self) -> None:
        """Wait until handlers have returned, and hand back what waited here for too long."""
        self._wait(BREATH if self._finisher_is_behind() else STALE / 2)
        if self._floor.longest_wait() > STALE:
            count = self._floor.hand_back_ready("all handlers of its worker were busy")
            log.info(
                "handlers take longer than expected, jobs are handed back",
                extra={"fields": {"jobs": count}},
            )

    def _wait(self, seconds: float) -> None:
        """Wait for this time, a notification, or room where there was none."""
        desk = self._desk
        (room, least), taken = self._space(), self._floor.taken()
        lacking = least - room
        if self._is_heavy():
            desk.low_bytes = HEAVY
        if lacking > 0:
            desk.low_water = taken - lacking
        elif any(self._floor.room_of(queue) <= 0 for queue in self._limits):
            desk.low_water = taken - 1
        is_there = self._floor.taken() <= desk.low_water or desk.bytes_held <= desk.low_bytes
        if not is_there and not self._ear.listen():
            desk.room.wait(seconds, self._ear.fileno())
        desk.low_water = desk.low_bytes = -1
