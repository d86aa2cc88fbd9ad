"""What this process tells Prometheus of itself: ``rota worker --metrics``.

What a worker does is counted where one thread does it, without a lock, and read now and then by
another: the sum of a histogram may lag an attempt behind its buckets. Whoever has no metrics has
none of this.
"""

import socket
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from rota.exposition import BOUNDS, OTHER, add_histogram, writer
from rota.worker.attempt import Attempt
from rota.worker.descriptor import Descriptor

CLAIM_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
MOST_TASKS = 1000
LEASE_LOST = "LEASE_LOST"

PATIENCE = 5.0  # seconds for one scrape, whatever its client does
LOOK_PERIOD = 1.0  # seconds between two looks at what cannot wake the thread that looks

_lost: list["_Listener"] = []  # kept, for to let go of a socket is to close its number


class Histogram:
    """How many spans of time were how long; one thread adds, others may read."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._numbers = [0] * (len(bounds) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Note one span; one that is as long as a bound belongs to its bucket."""
        self._numbers[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds

    def put_into(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Make it one of a family's."""
        add_histogram(family, labels, self._bounds, self._numbers, self._seconds)


class Metrics:
    """What is counted; a collector for a registry of prometheus_client."""

    def __init__(self) -> None:
        self.reconnects: Callable[[], int] = lambda: 0
        self._claims = Histogram(CLAIM_BOUNDS)  # of the thread that claims
        self._handlers: dict[str, Histogram] = {}  # of the thread that finishes
        self._lost_when_told = 0
        self._lost_while_held = 0  # of the heartbeat

    def claimed(self, seconds: float) -> None:
        """Note a claim that was answered, be it with no job."""
        self._claims.add(seconds)

    def ended(self, jobs: Iterable[Attempt]) -> None:
        """Note how long handlers ran, of jobs whose end is decided."""
        handlers = self._handlers
        for job in jobs:
            if job.started_at:  # not handed back before
                handler = handlers.get(job.task)
                (handler or self._new_handler(job.task)).add(job.seconds)

    def told(self, jobs: Sequence[Attempt], outcomes: Sequence[tuple[int, str]]) -> None:
        """Note of which jobs the database said that their leases were lost, when told their end."""
        kept = {job_id for job_id, outcome in outcomes if outcome != LEASE_LOST}
        if len(kept) < len(jobs):
            lost = [job for job in jobs if job.id not in kept and not job.lost]
            self._lost_when_told += len(lost)

    def lost(self) -> None:
        """Note that the heartbeat has heard of a lease that is lost."""
        self._lost_while_held += 1

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        claims = HistogramMetricFamily(
            "rota_worker_claim_duration_seconds",
            "How long claims took that were answered, those that found nothing among them.",
            labels=(),
        )
        self._claims.put_into(claims, ())
        yield claims
        handlers = HistogramMetricFamily(
            "rota_worker_handler_seconds", "How long handlers ran.", labels=("task",)
        )
        for task, handler in list(self._handlers.items()):
            handler.put_into(handlers, (task,))
        yield handlers
        yield CounterMetricFamily(
            "rota_worker_reconnects",
            "Connections to the database that were opened in place of a lost one.",
            value=self.reconnects(),
        )
        yield CounterMetricFamily(
            "rota_worker_lease_lost",
            "Jobs whose leases this worker has lost while it had them.",
            value=self._lost_when_told + self._lost_while_held,
        )

    def _new_handler(self, task: str) -> Histogram:
        name = task if len(self._handlers) < MOST_TASKS else OTHER
        return self._handlers.setdefault(name, Histogram(BOUNDS))


class Port:
    """The thread that answers scrapes, one at a time, each within a few seconds.

    Args:
        metrics: what to tell.
        address: host and port to listen on.

    Raises:
        OSError: that is not to be had.
    """

    def __init__(self, metrics: Metrics, address: tuple[str, int]) -> None:
        self.metrics = metrics
        self._registry = CollectorRegistry()
        self._registry.register(metrics)
        self._address = address
        self._listener = self._listen()

    def run(self, closing: threading.Event) -> None:
        """Answer until the worker has stopped; where a handler closed our socket, listen anew."""
        while not closing.is_set():
            if not self._listener.descriptor.intact:
                _lost.append(self._listener)
                self._listener = self._listen()
            self._listener.handle_request()

    def leave_to_parent(self) -> None:
        """Let go of the port in a forked child, which would keep it after the worker is gone."""
        self._listener.descriptor.close()

    def _listen(self) -> "_Listener":
        host, port = self._address
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return _Listener(family, address, self._registry)


class _Listener(HTTPServer):
    """Our socket, and what to answer on it."""

    timeout = LOOK_PERIOD

    def __init__(self, family: int, address: Any, registry: CollectorRegistry) -> None:
        self.address_family = family
        self.registry = registry
        self.is_local = ip_address(address[0].partition("%")[0]).is_loopback
        super().__init__(address, _Scrape)
        self.descriptor = Descriptor(self.socket.fileno())

    def server_bind(self) -> None:
        """Bind without a look at our own name, which may take the resolver long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer, and hang up on a client that takes longer than it may."""
        timer = threading.Timer(PATIENCE, _hang_up, [request])
        timer.daemon = True
        timer.start()
        try:
            super().finish_request(request, client_address)
        finally:
            timer.cancel()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass by a client that hung up, or that we hung up on."""


class _Scrape(BaseHTTPRequestHandler):
    """One scrape."""

    server: _Listener
    server_version = "rota"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with what is counted."""
        if not self._is_for_us():
            self._answer(421, b"this port does not answer to that host\n", "text/plain")
            return
        if urlsplit(self.path).path != "/metrics":
            self._answer(404, b"there is nothing at this path but at /metrics\n", "text/plain")
            return
        write, content_type = writer(self.headers.get("Accept", ""))
        self._answer(200, write(self.server.registry), content_type)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing: a scrape is no news."""

    def _is_for_us(self) -> bool:
        """Tell whether no page of another site may be behind this (protection.py in the API).

        Only a name can be made to lead to this machine; where all may come that does not matter.
        """
        host = self.headers.get("Host", "")
        with suppress(ValueError):
            name = urlsplit(f"//{host}").hostname or "localhost"
            known = name == "localhost" or name.endswith(".localhost")
            return not self.server.is_local or known or bool(ip_address(name))
        return False

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
