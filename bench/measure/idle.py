"""What a system costs in which nothing happens: an idle worker, and a claim that finds nothing."""

import time
from statistics import median

import psycopg

from bench.contestants import ROTA, Contestant
from bench.server import Server
from bench.sizes import Sizes

SETTLING = 20.0  # seconds; a session reports what it did 10 seconds later at most, and the server
# writes a record of its own 15 seconds after the last change
NOTHING = """
    create function public.nothing() returns setof rota.claimed_job language plpgsql volatile as
    $$ begin return; end; $$
"""


def idle_worker(server: Server, contestant: Contestant, sizes: Sizes) -> dict[str, float]:
    """Return what an idle worker does each second.

    Its statements are its commits: it runs each in a transaction of its own.
    """
    options = contestant.latency
    with server.arena(contestant, options) as arena, arena.worker(options) as worker:
        time.sleep(SETTLING)
        before, cpu = arena.counters(), worker.cpu()
        began = time.monotonic()
        time.sleep(sizes.idle_seconds)
        after, seconds = arena.counters(), time.monotonic() - began
        return {
            # Two looks at the counters are ours.
            "commits": max(0, after.commits - before.commits - 1) / seconds,
            "wal": (after.wal - before.wal) / seconds,
            "cpu": (worker.cpu() - cpu) / seconds,
            "memory": worker.memory(),
        }


def empty_claim(server: Server, sizes: Sizes) -> dict[str, float]:
    """Return microseconds of an empty claim, and of what it is compared with."""
    statements = {
        "select 1": "select 1",
        "a statement that calls a function": "select * from public.nothing()",
        "empty claim": "select * from rota.claim_next_job()",
    }
    with server.arena(ROTA) as arena, arena.connect() as conn:
        conn.execute(NOTHING)
        with arena.producer() as producer:  # a lane that was used
            producer.ask("many", jobs=1000, batch=1000, extra={})
        while rows := conn.execute(
            "select * from rota.claim_next_job(max_jobs => 1000)"
        ).fetchall():
            for row in rows:
                conn.execute("select from rota.finish_job(%s, %s)", row[:2])
        arena.vacuum()  # else autovacuum comes meanwhile, and what it writes would count
        _timed(conn, statements, 100)  # who comes first after a vacuum leaves hints on its pages
        wal = arena.wal()
        times = _timed(conn, statements, sizes.calls)
        with conn.transaction():
            conn.execute(statements["empty claim"])
            (xid,) = conn.execute("select pg_current_xact_id_if_assigned()").fetchone()
        return times | {
            "wal": (arena.wal() - wal) / sizes.calls,
            "transaction ids": 0 if xid is None else 1,
        }


def _timed(conn: psycopg.Connection, statements: dict[str, str], calls: int) -> dict[str, float]:
    """Return the median of each statement's times, in microseconds; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(calls):
        for name, statement in statements.items():
            began = time.perf_counter()
            conn.execute(statement, prepare=True).fetchall()
            times[name].append(time.perf_counter() - began)
    return {name: median(values) * 1e6 for name, values in times.items()}
