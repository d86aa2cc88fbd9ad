"""procrastinate's producer and worker: ``python -m bench.peers.procrastinate work URL OPTIONS``."""

import asyncio
import json
import sys
from typing import Any

from procrastinate import App, PsycopgConnector

from bench.child import Enqueue, Producer, Tally, say


def application(url: str, connections: int) -> App:
    """Return an application on a pool of connections."""
    return App(connector=PsycopgConnector(conninfo=url, min_size=connections, max_size=connections))


class Deferrer(Producer):
    """Defers jobs through tasks."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._task: Any = None

    async def clients(self, count: int) -> list[Enqueue]:
        """Return functions that defer one job."""
        app = application(self._url, count)
        await app.open_async()
        self._task = app.task(name="noop")(_nothing)
        return [lambda payload: self._task.defer_async(payload=payload)] * count

    async def bulk(self, payloads: list[dict[str, Any]]) -> None:
        """Defer a batch."""
        if self._task is None:
            await self.clients(1)
        await self._task.batch_defer_async(*({"payload": payload} for payload in payloads))


async def _nothing(payload: dict[str, Any]) -> None:
    """Stand for the task in the producer's process, where it never runs."""


async def install(url: str) -> None:
    """Create the tables."""
    async with application(url, 1).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def work(url: str, options: dict[str, Any]) -> None:
    """Run a worker until SIGTERM."""
    tally = Tally()
    app = application(url, options.get("concurrency", 1) + 2)

    @app.task(name="noop")
    async def noop(payload: dict[str, Any]) -> None:
        if seconds := tally.add(payload):
            await asyncio.sleep(seconds)

    async with app.open_async():
        say({"ready": True})
        await app.run_worker_async(shutdown_graceful_timeout=1, **options)


if __name__ == "__main__":
    role, url, options = sys.argv[1:]
    roles = {
        "install": lambda: install(url),
        "produce": lambda: Deferrer(url).serve(),
        "work": lambda: work(url, json.loads(options)),
    }
    asyncio.run(roles[role]())
