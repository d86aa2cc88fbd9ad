"""Limits of keys, by those who have them: the rate, whether they hold, and whom a full key blocks.

Jobs of ``KEY_NAMES`` by turns, of each of which ``KEY_LIMIT`` may run at once in all workers; each
job sleeps a while. How many run is asked of the contestant's own table, all the time: what one look
sees has run at once.
"""

import threading
from contextlib import ExitStack
from statistics import median
from typing import Any

from bench.contestants import KEY_LIMIT, KEY_NAMES, Contestant, Process
from bench.server import Arena, Server
from bench.sizes import Sizes
from bench.waiting import drained, until

PROCESSES = 4
SLEEP = 0.05  # seconds that a job takes
HOURS = 10_000.0  # seconds that a job takes which fills its key
RATE = 20.0  # jobs a second of another key, while one is full
LOOK = 0.005  # seconds between two looks


def limited_keys(server: Server, contestant: Contestant, sizes: Sizes) -> dict[str, Any]:
    """Return jobs a second, the most at once of a key, and what others wait beside a full key."""
    assert contestant.keyed is not None
    return _rate(server, contestant, sizes) | _beside(server, contestant, sizes)


def _rate(server: Server, contestant: Contestant, sizes: Sizes) -> dict[str, Any]:
    options, jobs = contestant.keyed, sizes.key_peer_jobs
    looks: list[int] = []
    over = threading.Event()
    with server.arena(contestant, {"limit": KEY_LIMIT}) as arena:
        with arena.producer() as producer:
            extra = {"sleep": SLEEP}
            producer.ask("many", jobs=jobs, batch=contestant.batch, extra=extra, keys=KEY_NAMES)
        arena.vacuum()
        watch = threading.Thread(target=_watch, args=(arena, looks, over))
        watch.start()
        try:
            with ExitStack() as stack:
                workers = [arena.worker(options) for _ in range(PROCESSES)]
                for worker in workers:
                    stack.enter_context(worker)
                result = drained(arena, workers, jobs, sizes.key_peer_seconds)
        finally:
            over.set()
            watch.join()
    return {
        "rate": result.rate,
        "jobs": result.jobs,
        "most at once": max(looks),
        "looks": len(looks),
        "looks above": sum(most > KEY_LIMIT for most in looks),
    }


def _watch(arena: Arena, looks: list[int], over: threading.Event) -> None:
    """Note, all the time, the most that runs of one key."""
    with arena.connect() as conn:
        while not over.wait(LOOK):
            rows = conn.execute(arena.contestant.at_once.encode(), prepare=True).fetchall()
            looks.append(max((count for (count,) in rows), default=0))


def _beside(server: Server, contestant: Contestant, sizes: Sizes) -> dict[str, Any]:
    """Return how long jobs of another key wait while one is full: with few behind it, with many."""
    full, other = KEY_NAMES[:2]
    found: dict[str, Any] = {"backlog": sizes.key_peer_backlog}
    with (
        server.arena(contestant, {"limit": KEY_LIMIT}) as arena,
        arena.producer() as producer,
        arena.worker(contestant.keyed) as worker,
    ):

        def add(jobs: int, seconds: float) -> None:
            extra = {"sleep": seconds}
            producer.ask("many", jobs=jobs, batch=contestant.batch, extra=extra, keys=[full])

        try:
            add(KEY_LIMIT, HOURS)
            until(lambda: worker.count == KEY_LIMIT, "a key to be full")
            for name, jobs in (("few", 10), ("many", sizes.key_peer_backlog)):
                add(jobs, 0)
                arena.vacuum()
                found[f"beside {name}"] = _wait(producer, worker, other, sizes.key_peer_starts)
        finally:
            worker.kill()
    return found


def _wait(producer: Process, worker: Process, key: str, jobs: int) -> float:
    """Return for how many milliseconds jobs that come one by one wait, the median."""
    worker.started.clear()
    returned = producer.ask("paced", jobs=jobs, rate=RATE, extra={"key": key})["returned"]
    until(lambda: len(worker.started) == jobs, "all jobs to have started")
    return median((worker.started[number] - at) / 1e6 for number, at in enumerate(returned))
