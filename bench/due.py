"""How late jobs start that are due in the future, on an idle machine: ``python -m bench.due``."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb

from bench.contestants import ROTA, Options
from bench.server import Arena, Server
from bench.waiting import until

JOBS = 120
NUMBERS = range(JOBS)
PERCENTILES = (50, 95, 99, 100)
SPREAD = 0.037  # seconds; due times that agree with no clock's tick


def main() -> None:
    """Measure and print; some minutes."""
    with tempfile.TemporaryDirectory(prefix="rota-bench-") as folder:
        server = Server(Path(folder) / "server", 18)
        with server.cluster:
            for name, options, workers, ahead in (
                ("known before, --poll 60", {"poll": 60}, 1, None),
                ("due in 0.05 to 0.9 s", {}, 1, 0.05),
                ("due in 1.5 to 2.3 s, --poll 60", {"poll": 60}, 1, 1.5),
                ("due in 0.05 to 0.9 s, 8 workers", {}, 8, 0.05),
            ):
                late = sorted(_late(server, options, workers, ahead))
                shown = [
                    f"p{p} {late[min(len(late) - 1, len(late) * p // 100)]:.1f}"
                    for p in PERCENTILES
                ]
                print(f"{name}: {', '.join(shown)} ms late", flush=True)


def _late(server: Server, options: Options, count: int, ahead: float | None) -> Iterator[float]:
    """Yield by how many milliseconds each job was late.

    Args:
        server: where.
        options: of each worker.
        count: how many workers.
        ahead: seconds from an enqueue to the due time, at least; None to enqueue all jobs before
            the workers start.
    """
    with server.arena(ROTA, options) as arena, arena.connect() as conn, ExitStack() as stack:
        due = [] if ahead is not None else [_enqueue(conn, n, 8 + n * 3 * SPREAD) for n in NUMBERS]
        workers = [stack.enter_context(arena.worker(options)) for _ in range(count)]
        _warm(arena, conn)
        if ahead is not None:
            for number in NUMBERS:
                due.append(_enqueue(conn, number, ahead + number * SPREAD % 0.85))
                time.sleep(0.3 + number * SPREAD % 0.2)
        until(lambda: sum(len(w.started) for w in workers) == JOBS, "all jobs to have started")
        started = {number: at for worker in workers for number, at in worker.started.items()}
        yield from ((started[number] - due[number]) / 1e6 for number in NUMBERS)


def _warm(arena: Arena, conn: psycopg.Connection) -> None:
    """Have plans and connections made, and the workers fall asleep."""
    for _ in range(20):
        conn.execute("select rota.enqueue_job('noop', '{\"i\": -1}')")
        time.sleep(0.1)
    time.sleep(1.0)


def _enqueue(conn: psycopg.Connection, number: int, seconds: float) -> int:
    """Enqueue a job that is due in so many seconds; return when, by the monotonic clock in ns."""
    run_at = datetime.now(UTC) + timedelta(seconds=seconds)
    offset = time.time_ns() - time.monotonic_ns()
    conn.execute(
        "select rota.enqueue_job('noop', %s, run_at => %s)", [Jsonb({"i": number}), run_at]
    )
    return round(run_at.timestamp() * 1e6) * 1000 - offset


if __name__ == "__main__":
    main()
