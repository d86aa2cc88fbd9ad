"""How long an upgrade keeps others waiting: ``python -m tests.locks --rows 10000000``, make locks.

A database of an earlier release, with so many live jobs, as many finished ones and attempts, and
sessions that work in it all the while; then the deploy of this checkout. What is measured is for
how long the deploy held each lock that others wait for, of what was there before it, and how long
anybody waited for it. Looks come every two milliseconds; what is shorter may be missed.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.db.gateway import call
from tests.releases import NAMES, MissingReleaseError, check_out

SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "maintenance_work_mem": "512MB"}
BATCH = 10_000
EVERY = 0.002  # seconds between two looks

HISTORY = """
    insert into rota.finished_jobs (
        id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run,
        attempt, max_retries, worker, token, created_at, started_at, finished_at
    )
    select
        1000000000 + g, 'task', '{}', 'default', 0, 'COMPLETED', 'ONE_TIME', now(), now(), 1, 1, 3,
        'w', gen_random_uuid(), now(), now(), now()
    from generate_series(1, %(rows)s) as g;

    insert into rota.attempts (
        job_id, run, attempt, outcome, worker, token, scheduled_for, started_at, finished_at,
        job_state
    )
    select
        1000000000 + g, 1, 0, 'RELEASED', 'w', gen_random_uuid(), now(), now(), now(), 'SCHEDULED'
    from generate_series(1, %(rows)s) as g;
"""

# Locks that stop those who read or write rows; of what the deploy makes itself nobody knows yet.
HELD = """
    select c.relname, c.relkind::text, l.mode, l.virtualtransaction, c.reltuples
    from pg_locks as l
    join pg_stat_activity as a on a.pid = l.pid
    join pg_class as c on c.oid = l.relation
    where a.application_name = 'rota deploy'
        and l.granted
        and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        and l.relation = any(%s)
"""
WAITS = """
    select extract(epoch from clock_timestamp() - l.waitstart)::float8, c.relname
    from pg_locks as l
    join pg_class as c on c.oid = l.relation
    where not l.granted
        and exists (
            select
            from unnest(pg_blocking_pids(l.pid)) as b(pid)
            join pg_stat_activity as a on a.pid = b.pid
            where a.application_name = 'rota deploy'
        )
"""
KNOWN = """
    select array_agg(c.oid)
    from pg_class as c
    where c.relnamespace = 'rota'::regnamespace and c.relkind in ('r', 'p', 'v', 'i', 'I')
"""


@dataclass
class Found:
    """What was seen of an upgrade."""

    held: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # seconds, by lock
    of_views: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    waited: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    slowest: dict[str, float] = field(default_factory=dict)  # call, while the deploy ran
    usual: dict[str, float] = field(default_factory=dict)  # the slowest before it
    took: float = 0.0
    failures: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return it for people."""
        lines = [f"the deploy took {self.took:.1f} s"]
        for what, times in (
            ("held on a table", self.held),
            ("held on a view", self.of_views),
            ("waited for by others", self.waited),
            ("slowest call meanwhile", self.slowest),
            ("slowest call before", self.usual),
        ):
            longest = sorted(times.items(), key=lambda item: -item[1])[:8]
            lines += [f"{what}: {name} {seconds * 1000:.0f} ms" for name, seconds in longest]
        return lines + [f"failed: {failure}" for failure in self.failures[:5]]


class Watcher(threading.Thread):
    """Looks at the locks of deploys."""

    def __init__(self, url: str, found: Found) -> None:
        super().__init__(daemon=True)
        self._conn = psycopg.connect(url, autocommit=True)
        self._known = self._conn.execute(KNOWN).fetchone()[0]
        self._found = found
        self._since: dict[tuple[str, ...], float] = {}
        self.going = True

    def run(self) -> None:
        while self.going:
            self.look()
            time.sleep(EVERY)
        self._conn.close()

    def look(self) -> None:
        now = time.monotonic()
        held = {}
        for name, kind, mode, transaction, _ in self._conn.execute(HELD, [self._known]):
            held[name, kind, mode, transaction] = None
        self._since = {lock: self._since.get(lock, now) for lock in held}
        for (name, kind, mode, _), since in self._since.items():
            times = self._found.of_views if kind == "v" else self._found.held
            lock = f"{mode} of {name}"
            times[lock] = max(times[lock], now - since)
        for seconds, name in self._conn.execute(WAITS):
            self._found.waited[name] = max(self._found.waited[name], seconds or 0.0)


class Session(threading.Thread):
    """Does one thing, over and over."""

    def __init__(
        self, url: str, name: str, deed: Callable[[Connection], object], found: Found
    ) -> None:
        super().__init__(daemon=True)
        # Nothing is prepared: what a prepared statement returns may change (0A000).
        self._conn = psycopg.connect(url, autocommit=True, prepare_threshold=None)
        self._name, self._deed, self._found = name, deed, found
        self.slowest = 0.0
        self.going = True

    def run(self) -> None:
        while self.going:
            began = time.monotonic()
            try:
                self._deed(self._conn)
            except psycopg.Error as error:
                self._found.failures.append(f"{self._name}: {error.sqlstate} {error}")
            self.slowest = max(self.slowest, time.monotonic() - began)
            time.sleep(0.005)
        self._conn.close()


def work(conn: Connection) -> None:
    """Claim a job and finish it."""
    for job in call(conn, "claim_next_job"):
        held = {"job_id": job["id"], "token": job["token"]}
        call(conn, "heartbeat_job", **held)
        call(conn, "finish_job", **held)


DEEDS: dict[str, Callable[[Connection], object]] = {
    "enqueue": lambda conn: call(conn, "enqueue_job", task="t", queue="other"),
    "claim, heartbeat and finish": work,
    "a look at a job": lambda conn: conn.execute(
        "select id from rota.jobs where id = 7"
    ).fetchall(),
    "a look at history": lambda conn: conn.execute(
        "select count(*) from rota.executions where job_id = 1000000007"
    ).fetchall(),
}


def fill(conn: Connection, rows: int) -> None:
    """Add live jobs, finished ones and attempts."""
    conn.execute("set synchronous_commit = off")
    for _ in range(0, rows, BATCH):
        call(conn, "enqueue_many", task="t", payloads=Jsonb([{"n": 1}] * min(rows, BATCH)))
    for statement in HISTORY.split(";")[:2]:
        conn.execute(statement.encode(), {"rows": rows})
    conn.execute("vacuum analyze rota.live_jobs, rota.finished_jobs, rota.attempts")


def upgrade(url: str, warm: float = 3.0) -> Found:
    """Deploy this checkout while others work; return what was seen of it."""
    found = Found()
    watcher = Watcher(url, found)
    sessions = {name: Session(url, name, deed, found) for name, deed in DEEDS.items()}
    for thread in (watcher, *sessions.values()):
        thread.start()
    time.sleep(warm)
    found.usual = {name: session.slowest for name, session in sessions.items()}
    for session in sessions.values():
        session.slowest = 0.0
    began = time.monotonic()
    deploy(url, report=lambda line: None)
    found.took = time.monotonic() - began
    found.slowest = {name: session.slowest for name, session in sessions.items()}
    for thread in (watcher, *sessions.values()):
        thread.going = False
    for thread in (watcher, *sessions.values()):
        thread.join()
    return found


def main() -> int:
    """Measure and print.

    Return 1 if a lock of a table was held for longer than 100 ms, or a call failed.
    """
    parser = argparse.ArgumentParser(description="How long an upgrade keeps others waiting.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--release", choices=NAMES, default=NAMES[0])
    parser.add_argument("--pg", type=int, default=18)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rota-locks-")))
        folder.chmod(0o755)
        try:
            release = check_out(options.release, folder / "release")
        except MissingReleaseError as error:
            print(error, file=sys.stderr)
            return 2
        server = stack.enter_context(Cluster(folder / "pg", options.pg, SETTINGS))
        with psycopg.connect(server.url(), autocommit=True) as conn:
            conn.execute("create database upgraded")
        url = server.url("upgraded")
        release.deploy(url)
        with psycopg.connect(url, autocommit=True) as conn:
            began = time.monotonic()
            fill(conn, options.rows)
            print(f"{options.rows} rows in {time.monotonic() - began:.0f} s", flush=True)
        found = upgrade(url)
    print(f"from {release.name}, PostgreSQL {options.pg}, {options.rows} rows in each table")
    print("\n".join(found.lines()))
    return int(bool(found.failures) or max(found.held.values(), default=0.0) > 0.1)


if __name__ == "__main__":
    sys.exit(main())
