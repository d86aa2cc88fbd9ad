"""The inside of a contestant's process, which speaks JSON lines with the harness.

A producer answers commands. A worker says, twenty times a second, how many jobs its handlers have
seen, and when those began that carry a number. ``peers/child.mjs`` is the same for Node.
"""

import asyncio
import json
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

PERIOD = 0.05  # seconds between two lines of a worker
UNNUMBERED = {"i": -1}

Enqueue = Callable[[dict[str, Any]], Awaitable[Any]]


def say(line: dict[str, Any]) -> None:
    """Send a line to the harness."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Tally:
    """Counts what the handlers of this process have seen, and reports it from a thread."""

    def __init__(self) -> None:
        self._count = 0
        self._started: list[tuple[int, int]] = []
        threading.Thread(target=self._report, daemon=True).start()

    def add(self, payload: dict[str, Any]) -> float:
        """Note that a handler began; return for how many seconds it shall go on."""
        if payload["i"] >= 0:
            self._started.append((payload["i"], time.monotonic_ns()))
        self._count += 1
        return payload.get("sleep", 0)

    def _report(self) -> None:
        said = -1
        while True:
            if self._count != said:
                said = self._count
                started, self._started = self._started, []
                say({"n": said, "t": time.monotonic_ns(), "started": started})
            time.sleep(PERIOD)


class Producer:
    """A producer's commands in terms of a contestant's own calls."""

    async def clients(self, count: int) -> list[Enqueue]:
        """Return functions that enqueue one job, each on a connection of its own."""
        raise NotImplementedError

    async def bulk(self, payloads: list[dict[str, Any]]) -> None:
        """Enqueue these jobs at once."""
        raise NotImplementedError

    async def one_by_one(self, clients: int, seconds: float) -> dict[str, float]:
        """Enqueue single jobs from so many clients at once, for so long."""
        enqueues = await self.clients(clients)
        began = time.monotonic()

        async def go(enqueue: Enqueue) -> int:
            count = 0
            while time.monotonic() - began < seconds:
                await enqueue(UNNUMBERED)
                count += 1
            return count

        counts = await asyncio.gather(*(go(enqueue) for enqueue in enqueues))
        return {"jobs": sum(counts), "seconds": time.monotonic() - began}

    async def many(
        self, jobs: int, batch: int, extra: dict[str, Any], keys: Sequence[str] = ()
    ) -> dict[str, float]:
        """Enqueue so many jobs in batches, of these keys by turns."""
        began = time.monotonic()
        kinds = [UNNUMBERED | extra | {"key": key} for key in keys] or [UNNUMBERED | extra]
        for first in range(0, jobs, batch):
            last = min(first + batch, jobs)
            await self.bulk([kinds[number % len(kinds)] for number in range(first, last)])
        return {"jobs": jobs, "seconds": time.monotonic() - began}

    async def paced(
        self, jobs: int, rate: float, extra: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Enqueue numbered jobs at a rate, unevenly; return when each call had returned."""
        (enqueue,) = await self.clients(1)
        returned = []
        due = time.monotonic()
        for number in range(jobs):
            due += random.uniform(0.5, 1.5) / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await enqueue({"i": number} | (extra or {}))
            returned.append(time.monotonic_ns())
        return {"returned": returned}

    async def serve(self) -> None:
        """Answer commands until the harness hangs up."""
        say({"ready": True})
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(line)
            say(await getattr(self, command.pop("do"))(**command))
