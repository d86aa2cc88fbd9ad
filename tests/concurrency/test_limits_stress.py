"""Eight sessions do all that can be done to jobs with keys, and no limit is ever passed by one.

Measured from the history, by the database's own times: as many at once, and as many starts in any
window, as the limit says, and never one more; nobody overtaken in strict order; nothing left over.
``ROTA_STRESS_SECONDS`` makes it longer, ``ROTA_SEED`` repeats the choices of a run (though not the
moments at which the sessions meet).
"""

import os
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.waiting import wait_until

SECONDS = float(os.environ.get("ROTA_STRESS_SECONDS", "30"))
SEED = int(os.environ.get("ROTA_SEED") or random.randrange(2**32))
SESSIONS = 8
SECOND = timedelta(seconds=1)
KEYS = "abcde"

RUNNING, WINDOWS, ORDER, FREE, CHANGED, SET = "running", "windows", "order", "free", "moved", "set"
QUEUES = {
    RUNNING: {"max_running": 6, "key_max_running": 2},
    WINDOWS: {
        "max_starts": 50,
        "starts_period": SECOND,
        "key_max_running": 6,
        "key_max_starts": 8,
        "key_starts_period": SECOND,
    },
    ORDER: {"key_in_order": True},
    FREE: {},
    CHANGED: {"key_max_running": 3},  # raised and lowered, never above this
    SET: {},  # set, changed and removed, of the queue and of a key
}
CHANGES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    CHANGED: [("configure_queue", {"key_max_running": number}) for number in (1, 2, 3)],
    SET: [
        ("configure_queue", {"max_running": 2}),
        ("configure_queue", {"unset": ["max_running"]}),
        ("configure_queue", {"key_max_running": 1}),
        ("configure_queue", {"unset": ["key_max_running"]}),
        ("configure_queue", {"key_in_order": True}),
        ("configure_queue", {"unset": ["key_in_order"]}),
        ("configure_queue", {"key_max_starts": 5, "key_starts_period": SECOND}),
        ("configure_queue", {"unset": ["key_max_starts", "key_starts_period"]}),
        ("configure_key", {"key": "a", "max_running": 2}),
        ("configure_key", {"key": "a", "unset": ["max_running"]}),
    ],
}

HISTORY = """
    select
        f.queue, f.key, f.priority::integer, f.id, e.run::integer, e.started_at, e.finished_at
    from rota.job_executions as e
    join rota.finished_jobs as f on f.id = e.job_id
    where e.started_at is not null
    order by e.started_at, e.finished_at
"""


class Attempt(NamedTuple):
    queue: str
    key: str | None
    priority: int
    job_id: int
    run: int
    started_at: datetime
    finished_at: datetime


class House:
    """What all sessions know of each other."""

    def __init__(self, seconds: float) -> None:
        self.calm_from = time.monotonic() + seconds  # nothing is added or broken any more
        self.ended = threading.Event()
        self.claims_began: dict[int, datetime] = {}  # the first claim of each job, before it began
        self.added: dict[int, datetime] = {}  # when the transaction that added a job had ended
        self.did: Counter[str] = Counter()
        self.unexpected: list[str] = []

    @property
    def is_calm(self) -> bool:
        return time.monotonic() > self.calm_from


class Worker(threading.Thread):
    """A session that does whatever it draws."""

    _queues = tuple(QUEUES)

    def __init__(self, house: House, connect: Callable[..., psycopg.Connection], number: int):
        super().__init__(daemon=True)
        self._house = house
        self._connect = connect
        self._conn = connect()
        self._random = random.Random(SEED * 1000 + number)
        self._held: list[dict[str, Any]] = []

    def run(self) -> None:
        house = self._house
        while not house.ended.is_set():
            deeds, weights = zip(*(self._calm if house.is_calm else self._busy), strict=True)
            (deed,) = self._random.choices(deeds, weights)
            try:
                deed(self)
            except psycopg.Rollback:  # of a session that has just been ended
                self._conn = self._connected()
            except psycopg.Error as error:
                if error.sqlstate not in (None, "57P01"):  # somebody has ended the session
                    house.unexpected.append(f"{deed.__name__}: {error.sqlstate}: {error}")
                self._conn = self._connected()

    def _connected(self) -> psycopg.Connection:
        while True:
            with suppress(psycopg.OperationalError):  # ended at once
                return self._connect()

    def _call(
        self, function: str, *, linger: float = 0, undone: float = 0, **arguments: Any
    ) -> list[dict[str, Any]]:
        """Make a call, which is left open or undone at times.

        What it is refused for is a matter of others, who came first.
        """
        rows: list[dict[str, Any]] = []
        try:
            with self._conn.transaction() as transaction:
                rows = call(self._conn, function, **arguments)
                self._linger(linger)
                if self._random.random() < undone:
                    raise psycopg.Rollback(transaction)
            return rows
        except psycopg.Error as error:
            if not (error.sqlstate or "").startswith("RT"):
                raise
            self._house.did[f"{function} refused"] += 1
            return []

    def _linger(self, share: float) -> None:
        if not self._house.is_calm and self._random.random() < share:
            time.sleep(self._random.uniform(0, 0.04))

    def _enqueue(self) -> None:
        pick = self._random
        made: list[int] = []
        with self._conn.transaction() as transaction:
            for _ in range(pick.choice([1, 1, 1, 3])):
                options = {
                    "task": "t",
                    "queue": pick.choice(list(QUEUES)),
                    "key": pick.choice(KEYS) if pick.random() < 0.9 else None,
                    "priority": pick.choice([0, 0, 0, 5]),
                }
                if pick.random() < 0.2:
                    later = timedelta(milliseconds=pick.randint(1, 500))
                    options["run_at"] = datetime.now(UTC) + later
                if pick.random() < 0.1:
                    options.pop("run_at", None)
                    rows = call(
                        self._conn,
                        "enqueue_jobs",
                        jobs=Jsonb([options, {**options, "key": pick.choice(KEYS)}]),
                    )
                else:
                    rows = call(self._conn, "enqueue_job", **options)
                made += [row["job_id"] for row in rows]
            self._linger(0.3)
            if pick.random() < 0.1:
                made = []
                raise psycopg.Rollback(transaction)
        now = datetime.now(UTC)
        self._house.added.update((job_id, now) for job_id in made)
        self._house.did["added"] += len(made)

    def _claim(self) -> None:
        pick, house = self._random, self._house
        queues = pick.sample(self._queues, pick.randint(1, min(4, len(self._queues))))
        got: list[dict[str, Any]] = []
        with self._conn.transaction() as transaction:
            began = datetime.now(UTC)
            got = call(
                self._conn,
                "claim_next_job",
                queues=queues,
                max_jobs=pick.choice([1, 1, 2, 5, 50]),
                lease=SECOND,
            )
            self._linger(0.2)
            if not house.is_calm and got and pick.random() < 0.08:
                undone, got = len(got), []
                house.did["claims undone"] += undone
                if pick.random() < 0.5:
                    raise psycopg.Rollback(transaction)
                self._conn.execute("select pg_terminate_backend(pg_backend_pid())")
        for row in got:
            house.claims_began.setdefault(row["id"], began)
        self._held += got
        house.did["claimed"] += len(got)

    def _some_held(self, most: int) -> list[dict[str, Any]]:
        self._random.shuffle(self._held)
        some, self._held = self._held[:most], self._held[most:]
        return some

    def _finish(self) -> None:
        some = self._some_held(self._random.choice([1, 1, 2, 5, 20]))
        errors = [self._random.choice(["boom", None, None, None, None]) for _ in some]
        with self._conn.transaction() as transaction:
            call(
                self._conn,
                "finish_jobs",
                job_ids=[row["id"] for row in some],
                tokens=[row["token"] for row in some],
                **({"errors": errors} if self._random.random() < 0.5 else {}),
            )
            self._linger(0.2)
            if not self._house.is_calm and self._random.random() < 0.05:
                self._held += some
                raise psycopg.Rollback(transaction)
        self._house.did["finished"] += len(some)

    def _release(self) -> None:
        delay = self._random.choice([timedelta(0), timedelta(milliseconds=50)])
        for row in self._some_held(1):
            self._call("release_job", job_id=row["id"], token=row["token"], delay=delay)

    def _abandon(self) -> None:
        self._house.did["abandoned"] += len(self._some_held(2))

    def _recover(self) -> None:
        for row in self._call("recover_jobs"):
            self._house.did["recovered"] += row["recover_jobs"]

    def _any_job(self, look: str) -> int:
        row = self._conn.execute(look).fetchone()
        return row[0] if row else 0

    def _cancel(self) -> None:
        job_id = self._any_job("select id from rota.live_jobs order by random() limit 1")
        self._call("cancel_job", job_id=job_id, linger=0.5, undone=0.3)

    def _retry(self) -> None:
        self._call(
            "retry_job",
            job_id=self._any_job(
                "select id from rota.finished_jobs where state <> 'COMPLETED'"
                " order by random() limit 1"
            ),
        )

    def _upkeep(self) -> None:
        self._call(self._random.choice(["maintain", "do_chores"]))

    def _change_limits(self) -> None:
        queue = self._random.choice(list(CHANGES))
        function, arguments = self._random.choice(CHANGES[queue])
        self._call(function, queue=queue, **arguments, linger=0.2, undone=0.1)
        self._house.did["limits changed"] += 1

    _calm = ((_claim, 40), (_finish, 30), (_recover, 3), (_release, 2))
    _busy = (
        *_calm,
        (_enqueue, 14),
        (_abandon, 1.5),
        (_cancel, 2),
        (_retry, 2),
        (_upkeep, 0.5),
        (_change_limits, 0.7),
    )


def most_at_once(attempts: Iterable[Attempt], since: datetime | None = None) -> int:
    """The most that ran when one of them started; a time at which one ends is free."""
    events = sorted([(a.started_at, 1) for a in attempts] + [(a.finished_at, -1) for a in attempts])
    at_once = most = 0
    for at, step in events:
        at_once += step
        if step > 0 and (since is None or at > since):
            most = max(most, at_once)
    return most


def most_starts(attempts: Iterable[Attempt], period: timedelta) -> int:
    """The most starts in any window of that length."""
    starts = sorted(a.started_at for a in attempts)
    first = most = 0
    for place, at in enumerate(starts):
        while at - starts[first] >= period:
            first += 1
        most = max(most, place - first + 1)
    return most


def interrupted(attempts: list[Attempt]) -> list[Attempt]:
    """The attempts of one key after those of another job had come between; in order of time."""
    seen: set[tuple[int, int]] = set()
    last = None
    found = []
    for a in attempts:
        if (a.job_id, a.run) != last and (a.job_id, a.run) in seen:
            found.append(a)
        last = (a.job_id, a.run)
        seen.add(last)
    return found


def overtaken(conn: psycopg.Connection, house: House, attempts: list[Attempt]) -> list[Any]:
    """Jobs that were there and due when the claim began by which a later one of its key started.

    Of first runs, whose times to run are those that they were added with.
    """
    began: dict[int, datetime] = {}
    for a in attempts:
        began.setdefault(a.job_id, a.started_at)
    rows = conn.execute(
        "select id, key, priority::integer, scheduled_for, finished_at from rota.finished_jobs"
        " where queue = %s and key is not null and run = 1",
        [ORDER],
    ).fetchall()
    lanes = defaultdict(list)
    for job_id, key, priority, due, ended in rows:
        lanes[key, priority].append((due, job_id, began.get(job_id, ended)))
    found = []
    for lane in lanes.values():
        for due, job_id, left in lane:
            claim_began = house.claims_began.get(job_id)
            if claim_began is None or job_id not in began:
                continue
            found += [
                (other, job_id)
                for other_due, other, other_left in lane
                if (other_due, other) < (due, job_id)
                and other_due < claim_began
                and house.added.get(other, claim_began) < claim_began
                and other_left > left
            ]
    return found


def test_limits_turns_and_order_hold_whatever_eight_sessions_do(conn, connect):
    print(f"seed {SEED}")
    for queue, limits in QUEUES.items():
        call(
            conn,
            "configure_queue",
            queue=queue,
            backoff_base=timedelta(milliseconds=50),
            **limits,
        )
    house = House(SECONDS)
    workers = [Worker(house, connect, number) for number in range(SESSIONS)]

    broken: list[Any] = []
    for worker in workers:
        worker.start()
    while not house.is_calm and not broken:
        broken = conn.execute("select * from rota.check_invariants()").fetchall()
        time.sleep(0.3)

    # From here on one limit holds in the queue where they came and went.
    call(conn, "configure_key", queue=SET, key="a", unset=["max_running"])
    call(
        conn,
        "configure_queue",
        queue=SET,
        key_max_running=2,
        unset=["max_running", "key_in_order", "key_max_starts"],
    )
    call(conn, "configure_queue", queue=CHANGED, key_max_running=3)
    bulks = [
        (SET, "a", 60),
        (CHANGED, "a", 60),
        (FREE, "a", 60),
        (RUNNING, KEYS, 12),
        (WINDOWS, KEYS, 20),
        (WINDOWS, "a", 30),
        (WINDOWS, [None], 120),
    ]
    # Enough that each limit is reached, also where a machine is so busy that few jobs end in a
    # second: each by what one claim may start, and hardly more.
    for queue, keys, number in bulks:
        jobs = [{"task": "t", "queue": queue, "key": key} for key in keys] * number
        call(conn, "enqueue_jobs", jobs=Jsonb(jobs))
    (set_at,) = conn.execute("select clock_timestamp()").fetchone()
    wait_until(
        lambda: (
            conn.execute(
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and xact_start < %s",
                [set_at],
            ).fetchone()
            == (0,)
        )
    )
    (since,) = conn.execute("select clock_timestamp()").fetchone()

    def left() -> tuple[int, int]:
        return conn.execute(
            "select (select count(*) from rota.live_jobs), (select count(*) from rota.turns)"
        ).fetchone()

    wait_until(lambda: left() == (0, 0) or house.unexpected, 120)
    house.ended.set()
    for worker in workers:
        worker.join(60)

    print(dict(house.did))
    assert house.unexpected == []
    assert broken == []
    assert conn.execute("select * from rota.check_invariants()").fetchall() == []
    assert left() == (0, 0)
    attempts = [Attempt(*row) for row in conn.execute(HISTORY).fetchall()]
    of_queue, of_key = defaultdict(list), defaultdict(list)
    for attempt in attempts:
        of_queue[attempt.queue].append(attempt)
        if attempt.key is not None:
            of_key[attempt.queue, attempt.key].append(attempt)

    def of_keys(queue: str) -> list[list[Attempt]]:
        return [of_key[queue, key] for key in KEYS]

    seen = {
        "queue, at once": most_at_once(of_queue[RUNNING]),
        "its keys, at once": max(map(most_at_once, of_keys(RUNNING))),
        "queue, in a window": most_starts(of_queue[WINDOWS], SECOND),
        "its keys, in a window": max(most_starts(a, SECOND) for a in of_keys(WINDOWS)),
        "keys with windows, at once": max(map(most_at_once, of_keys(WINDOWS))),
        "in order, at once": max(map(most_at_once, of_keys(ORDER))),
        "changed, at once": max(map(most_at_once, of_keys(CHANGED))),
        "set at last, at once": max(most_at_once(a, since) for a in of_keys(SET)),
    }
    print(seen)
    assert seen == {
        "queue, at once": 6,
        "its keys, at once": 2,
        "queue, in a window": 50,
        "its keys, in a window": 8,
        "keys with windows, at once": 6,
        "in order, at once": 1,
        "changed, at once": 3,
        "set at last, at once": 2,
    }
    assert max(map(most_at_once, of_keys(FREE))) > 3
    assert [a for one in of_keys(ORDER) for a in interrupted(one)] == []
    assert overtaken(conn, house, of_queue[ORDER]) == []
    assert min(house.did[deed] for deed in ("claims undone", "abandoned", "limits changed")) > 3
