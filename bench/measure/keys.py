"""What keys cost, and what they are for: claims of jobs that take turns, with limits and without.

Claims that are compared are made one after the other, so that both meet what else the machine does;
a figure is the median of several rounds. Claims need not be durable, as in a worker. What is timed
is the claim alone: how long the server's process worked for it, where that can be known, so that
others who use the machine do not count. A claim waits for nobody.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from psycopg import Connection

from bench.contestants import ROTA
from bench.server import Arena, Server
from bench.sizes import Sizes
from bench.waiting import until

KEYS = 1000
BATCH = 1000
WORKERS = 3
AT_ONCE = 100  # jobs that a worker of the noisy tenant claims
ADD = """
    select from rota.enqueue_jobs((
        select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
            'task', 'nothing', 'queue', %(queue)s::text, 'key', %(prefix)s::text || n %% %(keys)s
        )))
        from generate_series(1, %(jobs)s) as n
    ))
"""
CLAIM = "select id, token from rota.claim_next_job(array[%s::text], max_jobs => %s)"
FINISH = "select from rota.finish_jobs(%s, %s)"
QUEUES = {  # what stands in each, and its limits
    "plain": None,
    "keys": None,
    "limited keys": "key_max_running => 10",
    "keys with a window": "key_max_starts => 1000000, key_starts_period => interval '1 hour'",
    "limited queue": "max_running => 100000",
}
KEYED = ("keys", "limited keys", "keys with a window")


def keys(server: Server, sizes: Sizes) -> dict[str, Any]:
    """Return milliseconds: of claims by kind, beside a full key, of a small tenant, and pinned."""
    found: dict[str, Any] = {}
    with server.arena(ROTA) as arena, _session(arena) as conn:
        for queue, limits in QUEUES.items():
            if limits:
                _configure(conn, queue, limits)
        for kind, many, batch in (("one", sizes.key_calls, 1), ("batch", 5 * BATCH, BATCH)):
            found[kind] = _claims(
                *(conn, QUEUES, many, batch, sizes.limit_rounds),
                lambda: _fill(arena, conn, many),  # noqa: B023
            )
    with server.arena(ROTA) as arena, _session(arena) as conn:
        found["full key"] = _beside_a_full_key(arena, conn, sizes)
    with server.arena(ROTA) as arena, _session(arena) as conn:
        found["small tenant"] = _small_tenant(arena, conn, sizes)
    with server.arena(ROTA) as arena, _session(arena) as conn:
        found["old snapshot"] = _under_an_old_snapshot(arena, conn, sizes)
    return found


@contextmanager
def _session(arena: Arena) -> Iterator[Connection]:
    options = "-c synchronous_commit=off"
    with psycopg.connect(arena.url, autocommit=True, options=options) as conn:
        yield conn


def _configure(conn: Connection, queue: str, limits: str) -> None:
    """Set limits, and have them settled: the first claim that knows of them does that."""
    conn.execute(f"select rota.configure_queue('{queue}', {limits})".encode())
    _add(conn, queue, 1, "k" if queue in KEYED else None)
    until(lambda: _take(conn, queue, 1) == 1, "limits that hold")


def _add(conn: Connection, queue: str, jobs: int, prefix: str | None = "k", keys: int = 1) -> None:
    """Add jobs, each key in its turn."""
    for start in range(0, jobs, 10_000):
        conn.execute(
            ADD,
            {
                "queue": queue,
                "prefix": prefix,
                "keys": keys,
                "jobs": min(10_000, jobs - start),
            },
        )


def _take(conn: Connection, queue: str, batch: int, times: list[float] | None = None) -> int:
    """Claim and finish; return how many, and note what the claim took in milliseconds."""
    began = worked(conn)
    rows = conn.execute(CLAIM, [queue, batch], prepare=True).fetchall()
    if times is not None:
        times.append((worked(conn) - began) / 1e6)
    if rows:
        ids, tokens = zip(*rows, strict=True)
        conn.execute(FINISH, [list(ids), list(tokens)], prepare=True)
    return len(rows)


def worked(conn: Connection) -> int:
    """Return for how many nanoseconds the server's process of a session has worked so far."""
    try:
        return int(Path(f"/proc/{conn.info.backend_pid}/schedstat").read_text().split()[0])
    except OSError:
        return time.monotonic_ns()


def _fill(arena: Arena, conn: Connection, jobs: int) -> None:
    conn.execute("truncate rota.live_jobs, rota.finished_jobs, rota.turns")
    for queue in QUEUES:
        _add(conn, queue, jobs, "k" if queue in KEYED else None, KEYS)
    arena.vacuum()


def _claims(
    conn: Connection,
    queues: Iterable[str],
    jobs: int,
    batch: int,
    rounds: int,
    prepare: Callable[[], None],
) -> dict[str, float]:
    """Return the milliseconds of a claim of each queue; the first round warms all up."""
    figures: dict[str, list[float]] = {queue: [] for queue in queues}
    for _ in range(rounds + 1):
        prepare()
        times: dict[str, list[float]] = {queue: [] for queue in queues}
        left = dict.fromkeys(queues, jobs)
        while waiting := [queue for queue in queues if left[queue] > 0]:
            for queue in waiting:
                left[queue] -= _take(conn, queue, batch, times[queue])
        for queue in queues:
            figures[queue].append(median(times[queue]))
    return {queue: median(values[1:] or values) for queue, values in figures.items()}


def _beside_a_full_key(arena: Arena, conn: Connection, sizes: Sizes) -> dict[str, Any]:
    """Return what single claims of others take while a key waits for room, with few and with many.

    One of its jobs runs, and no more may. The two queues differ in nothing but how many wait.
    """
    waiting = {"few": 10, "many": sizes.key_backlog}
    for queue, jobs in waiting.items():
        _configure(conn, queue, "key_max_running => 1")
        _add(conn, queue, jobs, "full", 1)
        assert len(conn.execute(CLAIM, [queue, 10]).fetchall()) == 1

    arena.vacuum()

    def add() -> None:
        for queue in waiting:
            _add(conn, queue, sizes.key_calls, "other", 100)

    found = _claims(conn, waiting, sizes.key_calls, 1, sizes.limit_rounds, add)
    return {**found, "jobs": sizes.key_backlog}


def _small_tenant(arena: Arena, conn: Connection, sizes: Sizes) -> dict[str, Any]:
    """Return how long ten jobs of one tenant wait while workers are at those of another."""
    _add(conn, "shared", sizes.key_noisy, "noisy", 1)
    arena.vacuum()
    over = threading.Event()

    def work() -> None:
        with _session(arena) as own:
            while not over.is_set():
                _take(own, "shared", AT_ONCE)

    threads = [threading.Thread(target=work) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    waited = []
    try:
        for number in range(sizes.key_tenants):
            time.sleep(0.2)
            key = f"small {number} "
            _add(conn, "shared", 10, key, 1)
            until(lambda: _ended(conn, key + "0") == 10, "the small tenant")  # noqa: B023
            waited.append(
                conn.execute(
                    "select extract(epoch from max(started_at) - min(created_at))::float8 * 1000"
                    " from rota.finished_jobs where key = %s",
                    [key + "0"],
                ).fetchone()[0]
            )
        left = conn.execute("select count(*) from rota.live_jobs where key = 'noisy0'").fetchone()[
            0
        ]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return {"p50": median(waited), "worst": max(waited), "jobs": sizes.key_noisy, "left": left}


def _ended(conn: Connection, key: str) -> int:
    return conn.execute("select count(*) from rota.finished_jobs where key = %s", [key]).fetchone()[
        0
    ]


def _under_an_old_snapshot(arena: Arena, conn: Connection, sizes: Sizes) -> dict[str, Any]:
    """Return what single claims of jobs with keys take where many that were finished are pinned.

    Beside a queue in which there were none; the two share the tables.
    """
    queues = ("without", "pinned")

    def add() -> None:
        for queue in queues:
            _add(conn, queue, sizes.key_calls, "k", 100)

    _claims(conn, queues, sizes.key_calls, 1, 0, add)
    arena.vacuum()
    with arena.old_snapshot():
        for _ in range(0, sizes.key_pinned, 10 * BATCH):
            _add(conn, "pinned", 10 * BATCH, "k", 100)
            for _ in range(10):
                _take(conn, "pinned", BATCH)
        until(lambda: _take(conn, "pinned", BATCH) == 0, "the rest to be finished")
        found = _claims(conn, queues, sizes.key_calls, 1, sizes.limit_rounds, add)
    return {**found, "jobs": sizes.key_pinned}
