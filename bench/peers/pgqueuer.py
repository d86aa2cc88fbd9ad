"""pgqueuer's producer and worker: ``python -m bench.peers.pgqueuer work URL OPTIONS``."""

import asyncio
import json
import signal
import sys
from typing import Any

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from bench.child import Enqueue, Producer, Tally, say


class Client(Producer):
    """Enqueues through its queries."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._queries: Queries | None = None

    async def clients(self, count: int) -> list[Enqueue]:
        """Return functions that enqueue one job."""
        connections = [await asyncpg.connect(self._url) for _ in range(count)]
        return [self._enqueue(Queries.from_asyncpg_connection(c)) for c in connections]

    def _enqueue(self, queries: Queries) -> Enqueue:
        return lambda payload: queries.enqueue(_entrypoint(payload), json.dumps(payload).encode())

    async def bulk(self, payloads: list[dict[str, Any]]) -> None:
        """Enqueue a batch."""
        if self._queries is None:
            self._queries = Queries.from_asyncpg_connection(await asyncpg.connect(self._url))
        count = len(payloads)
        await self._queries.enqueue(
            [_entrypoint(payload) for payload in payloads],
            [json.dumps(payload).encode() for payload in payloads],
            [0] * count,
        )


def _entrypoint(payload: dict[str, Any]) -> str:
    """Return what a limit is set for, which is as near as it comes to a key."""
    return payload.get("key", "noop")


async def install(url: str, tuned: bool) -> None:
    """Create the tables, with its own autovacuum settings if asked for."""
    connection = await asyncpg.connect(url)
    queries = Queries.from_asyncpg_connection(connection)
    await queries.install()
    if tuned:
        await queries.optimize_autovacuum()
    await connection.close()


async def work(url: str, options: dict[str, Any]) -> None:
    """Run a worker until SIGTERM."""
    tally = Tally()
    worker = PgQueuer(AsyncpgDriver(await asyncpg.connect(url)))

    async def noop(job: Job) -> None:
        if seconds := tally.add(json.loads(job.payload)):
            await asyncio.sleep(seconds)

    limit = options.pop("limit", 0)
    for name in options.pop("keys", ["noop"]):
        worker.entrypoint(name, concurrency_limit=limit)(noop)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.shutdown.set)
    say({"ready": True})
    await worker.run(**options)


if __name__ == "__main__":
    role, url, text = sys.argv[1:]
    settings = json.loads(text)
    tuned = settings.pop("tuned", False)
    roles = {
        "install": lambda: install(url, tuned),
        "produce": lambda: Client(url).serve(),
        "work": lambda: work(url, settings),
    }
    uvloop.run(roles[role]())
