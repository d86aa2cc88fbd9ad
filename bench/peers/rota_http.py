"""Rota over HTTP: ``python -m bench.peers.rota_http work|load URL QUEUE``; URL is the API's.

As little of a client as can be, on uvloop: it shares the cores with what is measured.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Generator
from typing import Any

import uvloop

from bench.child import Tally, say

PAYLOAD = {"to": "ada@example.com", "subject": "Welcome"}
LEASE = 60  # seconds
WAIT = 20  # seconds
LOOKED_AT = 10_000  # jobs, the first ones

Conversation = Generator[bytes, Any, None]  # yields requests, is sent the answers


def request(method: str, path: str, body: Any = None) -> bytes:
    """Return a request as it goes over the wire."""
    content = b"" if body is None else json.dumps(body).encode()
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content


class Client(asyncio.Protocol):
    """One connection, and what is said over it."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._received = b""
        self.ended = asyncio.get_running_loop().create_future()
        self.times: list[float] = []  # seconds from each request to its answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport: Any = transport
        self._send(next(self._conversation))

    def data_received(self, data: bytes) -> None:
        """Go on when an answer is complete."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        start, _, rest = head.lower().partition(b"content-length:")
        if len(body) < int(rest.partition(b"\r\n")[0] or 0):
            return
        self.times.append(time.perf_counter() - self._asked)
        self._received = b""
        try:
            status = start[9:12]
            if status not in (b"200", b"201", b"204"):
                raise RuntimeError(f"{head!r} {body!r}")
            self._send(self._conversation.send(json.loads(body) if body else {}))
        except StopIteration:
            self._transport.close()
            self.ended.set_result(None)
        except Exception as error:
            self._transport.close()
            self.ended.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Do not wait for an answer that never comes."""
        if not self.ended.done():
            self.ended.set_exception(error or EOFError("the API has hung up"))

    def _send(self, data: bytes) -> None:
        self._asked = time.perf_counter()
        self._transport.write(data)


class Load:
    """Several clients that do the same until a moment."""

    def __init__(self, queue: str, seconds: float) -> None:
        self._queue = queue
        self._until = time.perf_counter() + seconds
        self.done = 0

    def _goes_on(self) -> bool:
        return time.perf_counter() < self._until

    def post(self) -> Conversation:
        """Add jobs."""
        body = {"task": "noop", "queue": self._queue, "payload": PAYLOAD}
        while self._goes_on():
            yield request("POST", "/jobs", body)
            self.done += 1

    def get(self) -> Conversation:
        """Look at jobs."""
        while self._goes_on():
            yield request("GET", f"/jobs/{random.randint(1, LOOKED_AT)}")
            self.done += 1

    def work(self) -> Conversation:
        """Claim a job, finish it: two requests."""
        claim = request("POST", f"/queues/{self._queue}/claim", {"lease_seconds": LEASE})
        while self._goes_on():
            (job,) = (yield claim)["jobs"]
            yield request("POST", f"/jobs/{job['id']}/finish", {"token": job["token"], "result": 1})
            self.done += 1

    def work_on(self) -> Conversation:
        """Finish a job and claim the next in the same request."""
        claim = {"queues": [self._queue], "lease_seconds": LEASE}
        (job,) = (yield request("POST", "/jobs/claim", claim))["jobs"]
        while self._goes_on():
            body = {"token": job["token"], "result": 1, "claim_next": claim}
            (job,) = (yield request("POST", f"/jobs/{job['id']}/finish", body))["claimed"]
            self.done += 1


def handle(queue: str) -> Conversation:
    """Work as a worker does: wait for a job, note that it began, finish it."""
    tally = Tally()
    claim = {"lease_seconds": LEASE, "wait_seconds": WAIT}
    while True:
        for job in (yield request("POST", f"/queues/{queue}/claim", claim)).get("jobs", []):
            tally.add(job["payload"])
            yield request("POST", f"/jobs/{job['id']}/finish", {"token": job["token"]})


async def talk(port: int, conversations: list[Conversation]) -> list[float]:
    """Have all these conversations; return how long each answer took, in order of size."""
    loop = asyncio.get_running_loop()
    clients = []
    for conversation in conversations:
        _, client = await loop.create_connection(
            lambda conversation=conversation: Client(conversation), "127.0.0.1", port
        )
        clients.append(client)
    await asyncio.gather(*(client.ended for client in clients))
    return sorted(seconds for client in clients for seconds in client.times)


def load(port: int, queue: str, do: str, clients: int, seconds: float) -> dict[str, float]:
    """Return how often so many clients got it done, and the times of the answers."""
    load = Load(queue, seconds)
    began = time.perf_counter()
    kinds: dict[str, Callable[[], Conversation]] = {
        "post": load.post, "get": load.get, "work": load.work, "work_on": load.work_on,
    }  # fmt: skip
    times = uvloop.run(talk(port, [kinds[do]() for _ in range(clients)]))
    return {
        "rate": load.done / (time.perf_counter() - began),
        "p50": times[len(times) // 2] * 1e3,
        "p99": times[len(times) * 99 // 100] * 1e3,
    }


def main() -> None:
    """Work, or answer commands until the harness hangs up."""
    role, port, queue = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    say({"ready": True})
    if role == "work":
        uvloop.run(talk(port, [handle(queue)]))
    for line in sys.stdin:
        say(load(port, queue, **json.loads(line)))


if __name__ == "__main__":
    main()
