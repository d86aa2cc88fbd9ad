"""The HTTP server: waitress, with deadlines for clients and lanes for requests.

One thread, the loop, talks to all clients: it accepts, reads and writes what can be read and
written at once, and waits for nobody. A request that has arrived to its end goes to the threads of
a lane, and what they answer goes out by the loop again. So a slow client holds a socket and nothing
else; and a socket for no longer than its deadline, or until others need the place.

A thread may have to wait: for a lock, for a slow query, for a database that has gone. What that can
hold up is bounded by lanes, each with threads of its own, and in a lane by the number of threads
that requests for one path may have, which is where those meet that wait for one row. A request that
gets no thread in time is told so.
"""

import contextlib
import json
import logging
import resource
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from flask import Flask
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import Error

from rota.app.errors import WORDS_BY_STATUS
from rota.app.inputs import MAX_BODY_BYTES
from rota.app.protection import HEADERS, LOCAL_ADDRESS

TICK_SECONDS = 0.2
LARGEST_UPLOAD = 4 * MAX_BODY_BYTES  # what is let in to be refused in JSON
LARGEST_HEAD = 64 * 1024
ALL_UPLOADS = 128 * MAX_BODY_BYTES  # what all requests that are on their way may have brought
LONGEST_ANSWERS = 16 * MAX_BODY_BYTES  # that a client may leave unread and have more made for it

CONNECTIONS = 500  # or fewer, where the system allows fewer open files
OTHER_FILES = 200  # for connections to the database, uploads in files, and what Python opens

# What a client has to do next, and how many seconds it may take.
HEAD, IDLE, BODY, ANSWER = "head", "idle", "body", "answer"
PATIENCE = {HEAD: 10, IDLE: 60, BODY: 30, ANSWER: 60}
EVICTED_FIRST = [HEAD, IDLE, BODY, ANSWER]

QUEUE_SECONDS = 5  # how long a request may wait for a thread

# The lanes, and how many threads each has.
OWN = "own"  # what is answered without the database
READY = "ready"
READS = "reads"
CHANGES = "changes"
LANES = {OWN: 1, READY: 1, READS: 4, CHANGES: 8}
SPARED = 1 / 4  # of a lane's threads, by requests for one path

log = logging.getLogger("rota.api")


class Server:
    """Listens on an address, and serves the application until it is closed.

    Args:
        app: what answers.
        host: a name or an address.
        port: a number.

    Raises:
        OSError: the port is taken.
        ValueError: it is not a port.
    """

    def __init__(self, app: Flask, host: str, port: str) -> None:
        self._sockets: dict[int, Any] = {}
        self._lanes = Lanes()
        settings = Adjustments(
            host=host,
            port=port,
            connection_limit=2**20,  # ours is kept in Listener
            max_request_header_size=LARGEST_HEAD,
            max_request_body_size=LARGEST_UPLOAD,
            outbuf_high_watermark=2**40,  # no thread waits until a client has read
            log_socket_errors=False,
            ident=None,
        )
        self._listeners = [
            Listener(
                app,
                map=self._sockets,
                dispatcher=self._lanes,
                adj=settings,
                sockinfo=address,
            )
            for address in settings.listen
        ]
        self._ticked = 0.0

    def run(self, until: Callable[[], bool], each_second: Callable[[], None]) -> None:
        """Serve until something is so."""
        while not until():
            self._turn()
            if time.monotonic() >= self._ticked + 1:
                self._ticked = time.monotonic()
                self._lanes.refuse_overdue(self._ticked)
                for listener in self._listeners:
                    listener.end_overdue(self._ticked)
                each_second()

    def stop_listening(self) -> None:
        """Accept no more connections."""
        for listener in self._listeners:
            wasyncore.dispatcher.close(listener)

    def is_busy(self) -> bool:
        """Tell whether requests that have arrived are not answered yet."""
        return any(
            isinstance(item, Channel) and (item.requests or item.total_outbufs_len)
            for item in self._sockets.values()
        )

    def _turn(self) -> None:
        wasyncore.loop(TICK_SECONDS, use_poll=True, map=self._sockets, count=1)


class RefusalError(Error):
    """An answer that is given without asking the application."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        """Return it as the application's own errors are."""
        body = {"code": f"HTTP{self.code}", "message": self.body, "detail": None, "hint": None}
        headers = {**HEADERS, "Content-Type": "application/json", "Cache-Control": "no-store"}
        if self.code == 503:
            headers["Retry-After"] = "1"
        return f"{self.code} {self.reason}", [*headers.items()], json.dumps(body).encode()


class Parser(HTTPRequestParser):
    """Reads a request; what cannot be read, or could be read in two ways, is refused."""

    path = ""  # of a request whose head cannot be read

    def parse_header(self, header_plus: bytes) -> None:
        """Read the head.

        Raises:
            ParsingError: it cannot be read, or not in one way only.
        """
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # of urlsplit, or of int
            raise ParsingError("a part of the head cannot be read") from error
        length_too = "CONTENT_LENGTH" in self.headers
        if (self.chunked and length_too) or "TRANSFER_ENCODING" in self.headers:
            raise ParsingError("where the body ends is said in two ways, or to an old client")


class Task(WSGITask):
    """Hands a request to the application."""

    def get_environment(self) -> dict[str, Any]:
        """Return what WSGI says of the request, and where its connection came in."""
        return super().get_environment() | {LOCAL_ADDRESS: self.channel.local_address}


class RefusalTask(ErrorTask):
    """Answers a request that the application does not get to see."""

    def execute(self) -> None:
        """Answer in JSON, as the application does."""
        error = self.request.error
        if not isinstance(error, RefusalError):
            message = WORDS_BY_STATUS.get(error.code, error.reason.lower())
            self.request.error = RefusalError(error.code, error.reason, message)
        super().execute()


class Channel(HTTPChannel):
    """One client's connection."""

    parser_class = Parser
    task_class = Task
    error_task_class = RefusalTask

    def __init__(self, server: Any, sock: socket.socket, *rest: Any, **options: Any) -> None:
        self.local_address = sock.getsockname()[0]
        self.has_asked = False
        self.waits_since = time.monotonic()  # for the client to do what it has to do next
        self._waits_for: tuple[str | None, Any] = (HEAD, None)
        super().__init__(server, sock, *rest, **options)

    def phase(self) -> str | None:
        """Return what the client has to do next; None if it is our turn."""
        if self.requests:
            return None
        if self.total_outbufs_len:
            return ANSWER
        if self.request is None:
            return IDLE if self.has_asked else HEAD
        return BODY if self.request.headers_finished else HEAD

    def is_overdue(self, now: float) -> bool:
        """Tell whether the client has taken too long; to be asked every second or so.

        However often something comes from it: what counts is when the head, the body or the answer
        was begun.
        """
        phase = self.phase()
        if (phase, self.request) != self._waits_for:
            self._waits_for = (phase, self.request)
            self.waits_since = now
        return phase is not None and now - self.waits_since > PATIENCE[phase]

    def service(self) -> None:
        """Answer the first of the requests that have arrived."""
        if self.total_outbufs_len > LONGEST_ANSWERS:
            with self.requests_lock:
                self.close_when_flushed = True
                for request in self.requests:
                    request.close()
                self.requests = []
            self.server.pull_trigger()
            return
        self.has_asked = True
        super().service()
        self.waits_since = time.monotonic()

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Wait for nobody: the answer is in memory anyway, and the loop sends it."""


class Listener(TcpWSGIServer):
    """Accepts connections; when all places are taken, those give way that do least with theirs."""

    channel_class = Channel

    def __init__(self, *rest: Any, **options: Any) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._places = max(10, min(CONNECTIONS, files - OTHER_FILES))
        super().__init__(*rest, **options)

    def handle_accept(self) -> None:
        """Accept one connection."""
        try:
            pair = self.accept()
        except OSError:  # no more files, say
            self._evict()
            return
        if pair is None:
            return
        sock, address = pair
        with contextlib.suppress(OSError):  # the client has gone already
            self.set_socket_options(sock)
            Channel(self, sock, address, self.adj, map=self._map)
        if len(self.active_channels) > self._places:
            self._evict()

    def end_overdue(self, now: float) -> None:
        """Close the connections of clients that took too long, or brought too much at once."""
        uploads = []
        for channel in list(self.active_channels.values()):
            if channel.is_overdue(now):
                channel.handle_close()
            elif not channel.requests and channel.request is not None:
                uploads.append(channel)
        brought = sum(channel.request.body_bytes_received for channel in uploads)
        for channel in sorted(uploads, key=lambda channel: channel.waits_since):
            if brought <= ALL_UPLOADS:
                break
            brought -= channel.request.body_bytes_received
            channel.handle_close()

    def maintenance(self, now: float) -> None:
        """Do nothing: see end_overdue."""

    def _evict(self) -> None:
        """Close the connection that is missed least: the one that has waited longest for nothing.

        First those that never asked for anything, or are not done with asking; then those between
        two requests; then those that bring a body or take an answer. Those whose request is being
        answered stay.
        """
        waiting = [
            (EVICTED_FIRST.index(phase), channel.waits_since, number)
            for number, channel in self.active_channels.items()
            if (phase := channel.phase()) is not None
        ]
        if waiting:
            _, _, number = min(waiting)
            self.active_channels[number].handle_close()


class Lanes:
    """Where requests wait for a thread; what waitress calls a task dispatcher."""

    def __init__(self) -> None:
        self._lanes = {name: Lane(name, threads) for name, threads in LANES.items()}

    def add_task(self, channel: Channel) -> None:
        """Put a channel in the lane of the first of its requests."""
        request = channel.requests[0]
        lane = OWN if request.error else lane_of(request.command, request.path)
        self._lanes[lane].add(channel, request)

    def refuse_overdue(self, now: float) -> None:
        """Tell clients whose requests got no thread in time."""
        for lane in self._lanes.values():
            for channel, request in lane.take_overdue(now):
                request.error = RefusalError(
                    503, "Service Unavailable", "too many requests are ahead of this one; try again"
                )
                self._lanes[OWN].add(channel, request)


def lane_of(method: str, path: str) -> str:
    """Return the lane of a request."""
    if path == "/health/ready":
        return READY
    if path in ("/", "/apispec.json", "/health/live") or path.startswith("/apidocs"):
        return OWN
    return READS if method in ("GET", "HEAD", "OPTIONS") else CHANGES


class Lane:
    """Threads, and the requests that wait for one, in order."""

    def __init__(self, name: str, threads: int) -> None:
        self._most_of_a_path = threads - int(threads * SPARED)
        self._waiting: deque[tuple[Channel, Any, float]] = deque()
        self._paths: Counter[str] = Counter()  # of the requests that have a thread
        self._changed = threading.Condition()
        for number in range(threads):
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True).start()

    def add(self, channel: Channel, request: Any) -> None:
        """Let a request wait."""
        with self._changed:
            self._waiting.append((channel, request, time.monotonic()))
            self._changed.notify()

    def take_overdue(self, now: float) -> list[tuple[Channel, Any]]:
        """Take out those that have waited too long, but for what is refused already."""
        with self._changed:
            overdue = [
                item
                for item in self._waiting
                if now - item[2] > QUEUE_SECONDS and item[1].error is None
            ]
            for item in overdue:
                self._waiting.remove(item)
        return [(channel, request) for channel, request, _ in overdue]

    def _serve(self) -> None:
        while True:
            with self._changed:
                while (item := self._next()) is None:
                    self._changed.wait()
                self._waiting.remove(item)
                channel, request, _ = item
                self._paths[request.path] += 1
            try:
                channel.service()
            except Exception:
                log.exception("a request was not answered")
            finally:
                with self._changed:
                    self._paths[request.path] -= 1
                    if not self._paths[request.path]:
                        del self._paths[request.path]
                    self._changed.notify()

    def _next(self) -> tuple[Channel, Any, float] | None:
        for item in self._waiting:
            if self._paths[item[1].path] < self._most_of_a_path:
                return item
        return None
