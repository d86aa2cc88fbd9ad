"""What it costs that jobs wait for jobs: fan-ins, chains, a failed root, results of many parents.

Jobs that wait and plain ones take turns on one database, several rounds in one run; a figure is the
median of its rounds. Claims need not be durable, as in a worker; finishes are, but for a chain:
where one client makes one call after the other, the disk would hide all else. What is one call is
timed by how long the server's process worked for it.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from bench.contestants import ROTA
from bench.measure.keys import worked
from bench.measure.limit import in_turns
from bench.server import Arena, Server
from bench.sizes import Sizes

BATCH = 100
WORKERS = (2, 8)
CLAIM = "select id, token from rota.claim_next_job(max_jobs => %s)"
FINISH = "select from rota.finish_jobs(%s, %s)"
PLAIN = "select from rota.enqueue_many('nothing', %s)"
WORKFLOW = "select job_id from rota.enqueue_workflow(%s)"
LEFT = "select count(*) from rota.live_jobs"
HISTORIES = {"weeks": (13, "1 week"), "days": (90, "1 day")}  # in how many partitions, how long
PARTITIONS = """
    do $$
    declare
        v_since timestamptz := date_trunc('week', now(), 'UTC') - {number} * interval '{length}';
    begin
        for v_place in 0..{number} - 1 loop
            execute format(
                'create table rota.finished_jobs_of_bench_%s partition of rota.finished_jobs'
                    ' for values from (%L) to (%L)',
                v_place,
                v_since + v_place * interval '{length}',
                v_since + (v_place + 1) * interval '{length}'
            );
        end loop;
    end;
    $$
"""
SPREAD = """
    update rota.finished_jobs
    set finished_at = finished_at - id % {number} * interval '{length}'
"""


def workflows(server: Server, sizes: Sizes) -> dict[str, Any]:
    """Return rates of jobs, of plain ones and of such as wait, and milliseconds of what is long."""
    jobs, chain = sizes.workflow_jobs, sizes.workflow_chain
    found: dict[str, Any] = {"jobs": jobs}
    with server.arena(ROTA) as arena, _session(arena) as conn:

        def rates(shapes: dict[str, list[Any]], workers: int, batch: int) -> dict[str, float]:
            def empty() -> None:
                conn.execute(
                    "truncate rota.live_jobs, rota.finished_jobs, rota.workflows,"
                    " rota.workflow_jobs, rota.job_dependencies, rota.job_waits"
                )

            def rate(document: list[Any]) -> float:
                _add(conn, document)
                arena.vacuum()
                return len(document) / _drain(arena, workers, batch, durable=workers > 1)

            return in_turns(
                sizes.limit_rounds,
                {name: lambda d=document: rate(d) for name, document in shapes.items()},
                empty,
            )

        for workers in WORKERS:
            found[f"fan-in, {workers} workers"] = rates(
                {"plain": [0] * jobs, "workflow": [*_nodes(jobs), _node(depends_on="all")]},
                workers,
                BATCH,
            )
        found["chain"] = rates(
            {"plain": [0] * chain, "workflow": [_node(depends_on="previous")] * chain}, 1, 1
        )
        found["failed root"] = _failed_root(conn, sizes)
    for history, (number, length) in HISTORIES.items():
        with server.arena(ROTA) as arena, _session(arena) as conn:
            found[f"results, {history}"] = _results(arena, conn, sizes, number, length)
    return found


@contextmanager
def _session(arena: Arena) -> Iterator[Connection]:
    with psycopg.connect(arena.url, autocommit=True) as conn:
        yield conn


def _node(**more: Any) -> dict[str, Any]:
    return {"task": "nothing", **more}


def _nodes(number: int, **more: Any) -> list[dict[str, Any]]:
    return [_node(**more)] * number


def _add(conn: Connection, document: list[Any]) -> list[tuple[int]]:
    """Enqueue plain jobs, of which only the payloads are given, or a workflow."""
    if document[0] == 0:
        conn.execute(PLAIN, [Jsonb(document)])
        return []
    return conn.execute(WORKFLOW, [Jsonb(document)]).fetchall()


def _drain(arena: Arena, workers: int, batch: int, durable: bool = True) -> float:
    """Return the seconds in which so many sessions claim and finish all there is."""
    barrier = threading.Barrier(workers + 1)

    def work() -> None:
        with _session(arena) as conn:
            barrier.wait()
            conn.execute("set synchronous_commit = off")
            while True:
                rows = conn.execute(CLAIM, [batch], prepare=True).fetchall()
                if rows:
                    ids, tokens = zip(*rows, strict=True)
                    with conn.transaction():
                        if durable:
                            conn.execute("set local synchronous_commit = on")
                        conn.execute(FINISH, [list(ids), list(tokens)], prepare=True)
                elif conn.execute(LEFT).fetchone() == (0,):
                    return

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    return time.monotonic() - began


def _failed_root(conn: Connection, sizes: Sizes) -> float:
    """Return the milliseconds in which a root fails on which all the others depend."""
    times = []
    for _ in range(sizes.limit_rounds):
        root = _node(node="root")
        _add(
            conn, [root, *_nodes(sizes.workflow_jobs, depends_on=["root"]), _node(depends_on="all")]
        )
        ((job_id, token),) = conn.execute(CLAIM, [1]).fetchall()
        began = worked(conn)
        conn.execute(
            "select from rota.finish_job(%s, %s, 'it is broken', retry => false)", [job_id, token]
        )
        times.append((worked(conn) - began) / 1e6)
        assert conn.execute(LEFT).fetchone() == (0,)
    return median(times)


def _results(
    arena: Arena, conn: Connection, sizes: Sizes, number: int, length: str
) -> dict[str, float]:
    """Return the milliseconds of what many parents came to, over all of history, and of one."""
    conn.execute(PARTITIONS.format(number=number, length=length).encode())
    found = {}
    for name, parents in (("many", sizes.workflow_jobs), ("one", 1)):
        ids = _add(conn, [*_nodes(parents), _node(depends_on="all")])
        _drain(arena, 1, 1000)
        conn.execute(SPREAD.format(number=number, length=length).encode())
        arena.vacuum()
        times = []
        for _ in range(sizes.limit_rounds + 1):
            began = worked(conn)
            rows = conn.execute(
                "select * from rota.parent_results(%s)", [ids[-1][0]], prepare=True
            ).fetchall()
            times.append((worked(conn) - began) / 1e6)
            assert len(rows) == parents
        found[name] = median(times[1:])
    return found
