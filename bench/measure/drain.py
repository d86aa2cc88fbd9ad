"""Draining no-op jobs, by one worker process and several, and what each job costs the server."""

from contextlib import ExitStack
from dataclasses import asdict
from statistics import median
from typing import Any

from bench.contestants import Contestant, Options
from bench.server import Arena, Server
from bench.sizes import Sizes
from bench.waiting import Drained, drained

INSTANT = 10_000  # jobs


def bulk(server: Server, contestant: Contestant, sizes: Sizes) -> dict[str, Any]:
    """Return how many jobs a second a bulk of them is enqueued at, and their cost."""
    with server.arena(contestant) as arena, arena.producer() as producer:
        producer.ask("many", jobs=contestant.batch, batch=contestant.batch, extra={})
        rates = []
        for _ in range(3):
            before = arena.counters()
            answer = producer.ask("many", jobs=sizes.bulk_jobs, batch=contestant.batch, extra={})
            rates.append(answer["jobs"] / answer["seconds"])
            wal = arena.counters().wal - before.wal
    return {"rate": median(rates), "wal": wal / sizes.bulk_jobs}


def drain(server: Server, contestant: Contestant, sizes: Sizes) -> dict[str, Any]:
    """Return, by configuration and number of processes, the rate and a job's cost."""
    results = {}
    for configuration, options in contestant.workers.items():
        for processes in sizes.processes if configuration == "best" else (1,):
            slow = configuration in contestant.slow
            results[f"{configuration}, {processes}"] = _middle(
                [
                    _drain(server, contestant, options, processes, sizes, 10 if slow else 1)
                    for _ in range(1 if slow else sizes.drain_rounds)
                ]
            )
    return results


def _middle(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(rounds, key=lambda round: round["rate"])[len(rounds) // 2]


def _drain(
    server: Server,
    contestant: Contestant,
    options: Options,
    processes: int,
    sizes: Sizes,
    fewer: int,
) -> dict[str, Any]:
    jobs = sizes.drain_jobs // fewer
    with server.arena(contestant, options) as arena:
        with arena.producer() as producer:
            producer.ask("many", jobs=jobs, batch=contestant.batch, extra={})
        arena.vacuum()
        before = arena.counters()
        with ExitStack() as stack:
            workers = [arena.worker(options) for _ in range(processes)]  # all at once
            for worker in workers:
                stack.enter_context(worker)
            result = drained(arena, workers, jobs, sizes.slow_drain_seconds)
            memory = max(worker.memory() for worker in workers)
        return {"rate": result.rate, "memory": memory, **_cost(arena, before, result)}


def _cost(arena: Arena, before: Any, result: Drained) -> dict[str, float]:
    """Return what a job cost; all who did something have ended, so the counters are complete."""
    after = asdict(arena.counters())
    return {name: (after[name] - value) / result.jobs for name, value in asdict(before).items()}


def backlog(server: Server, contestant: Contestant, sizes: Sizes, jobs: int) -> dict[str, Any]:
    """Return the rate at which the first jobs of a backlog are drained, and the worker's memory.

    A backlog that is gone in an instant is drained five times; the middle one counts.
    """
    rounds = 5 if jobs <= INSTANT else 1
    return _middle([_backlog(server, contestant, sizes, jobs) for _ in range(rounds)])


def _backlog(server: Server, contestant: Contestant, sizes: Sizes, jobs: int) -> dict[str, Any]:
    options = contestant.workers["best"]
    with server.arena(contestant, options) as arena:
        with arena.producer() as producer:
            producer.ask("many", jobs=jobs, batch=contestant.batch, extra={})
        arena.vacuum()
        with arena.worker(options) as worker:
            some = min(jobs, sizes.backlog_drain)
            result = drained(arena, [worker], some, sizes.slow_drain_seconds, some == jobs)
            return {"rate": result.rate, "memory": worker.memory()}
