"""The API: how soon a worker over HTTP has a job, and how much goes over it.

The API runs as `rota api` does, log included. Its clients, a process of their own, share the cores
with it and with the server.
"""

import os
import random
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from psycopg import Connection

from bench.contestants import ROTA, Process
from bench.measure.latency import IDLE_RATE, PERCENTILES, SETTLED
from bench.measure.limit import ONE, pgbench
from bench.peers.rota_http import LOOKED_AT
from bench.server import Arena, Server
from bench.sizes import Sizes
from bench.waiting import until

HTTP_QUEUE = "http"
ENQUEUE = "select from rota.enqueue_job('noop', %s, %s)"
WAITING = 20_000  # jobs, more than are worked off in one turn
KINDS = {
    "POST /jobs": "post",
    "GET /jobs/{id}": "get",
    "claim, then finish": "work",
    "finish with claim_next": "work_on",
}
CLIENTS = (8, 64)
PROCESSES = (1, 2)


@contextmanager
def api(arena: Arena, folder: Path, processes: int = 1) -> Iterator[int]:
    """Run the API; yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"DATABASE_URL": arena.url, "HOST": "127.0.0.1", "PORT": str(port)}
    command = [sys.executable, "-m", "rota.app", "--processes", str(processes)]
    server = Process(command, folder / "api.log", settings)
    try:
        until(lambda: _is_live(port), "the API")
        yield port
    finally:
        server.stop()


def _is_live(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _clients(role: str, port: int, log: Path) -> Process:
    command = [sys.executable, "-m", "bench.peers.rota_http", role, str(port), HTTP_QUEUE]
    return Process(command, log)


def http_start(server: Server, sizes: Sizes) -> dict[str, Any]:
    """Return the start latency, in milliseconds, of a worker over HTTP and of one in SQL.

    From the return of the call that enqueued a job, as in the latency of all; the two get their
    jobs by turns, from one producer, in queues of their own. Nothing else happens meanwhile.
    """
    with (
        server.arena(ROTA) as arena,
        arena.worker({}) as sql,
        api(arena, server.folder) as port,
        _clients("work", port, server.folder / "http.log") as http,
        arena.connect() as conn,
    ):
        workers = {"SQL": (sql, "default"), "HTTP": (http, HTTP_QUEUE)}
        returned: dict[str, list[int]] = {name: [] for name in workers}
        due = time.monotonic()
        for number in range(sizes.idle_starts + SETTLED):
            for name, (_, queue) in workers.items():
                due += random.uniform(0.5, 1.5) / IDLE_RATE
                time.sleep(max(0.0, due - time.monotonic()))
                conn.execute(ENQUEUE, [f'{{"i": {number}}}', queue], prepare=True)
                returned[name].append(time.monotonic_ns())
        found: dict[str, Any] = {"load": os.getloadavg()[0]}
        for name, (worker, _) in workers.items():
            ended = returned[name]
            until(lambda: len(worker.started) == len(ended), f"all jobs over {name}")  # noqa: B023
            waits = sorted(
                (worker.started[number] - at) / 1e6
                for number, at in enumerate(ended)
                if number >= SETTLED
            )
            found[name] = {f"p{p}": waits[len(waits) * p // 100] for p in PERCENTILES}
        return found


def http_rates(server: Server, sizes: Sizes) -> dict[str, Any]:
    """Return how often a second each kind of request is done, and in how many milliseconds.

    One process of the API and two take turns, some rounds in one run; a figure is the median of
    them. Beside it is what so many clients reach in SQL, with the function behind POST /jobs.
    """
    found: dict[str, list[dict[str, float]]] = {}
    load_average = os.getloadavg()[0]
    with server.arena(ROTA) as arena, arena.connect() as conn:
        _fill(conn, "default", LOOKED_AT)
        for _ in range(sizes.http_rounds):
            for clients in CLIENTS:
                rate = pgbench(server, arena, ONE["Rota"], clients, sizes)
                found.setdefault(f"{clients}: enqueue_job in SQL", []).append({"rate": rate})
            for processes in PROCESSES:
                with (
                    api(arena, server.folder, processes) as port,
                    _clients("load", port, server.folder / "http.log") as load,
                ):
                    load.ask("post", clients=8, seconds=0.5)  # warms up
                    for clients in CLIENTS:
                        for name, kind in KINDS.items():
                            if "work" in kind:
                                _fill(conn, HTTP_QUEUE, WAITING)
                            answer = load.ask(kind, clients=clients, seconds=sizes.http_seconds)
                            key = f"{clients}: {name}, {processes}"
                            found.setdefault(key, []).append(answer)
    return {"load": load_average} | {
        key: {figure: median(entry[figure] for entry in entries) for figure in entries[0]}
        for key, entries in found.items()
    }


def _fill(conn: Connection, queue: str, jobs: int) -> None:
    payloads = f"[{','.join(['{}'] * jobs)}]"
    conn.execute("select from rota.enqueue_many('noop', %s, %s)", [payloads, queue])
