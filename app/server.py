"""The HTTP server: uvloop and httptools, with deadlines for clients and lanes for requests.

One thread, the loop, talks to all clients: it accepts, reads and writes what can be read and
written at once, and waits for nobody. A request that has arrived to its end goes to the threads of
a lane, and what they answer goes out by the loop again. So a slow client holds a socket and nothing
else; and a socket for no longer than its deadline, or until others need the place.

A thread may have to wait: for a lock, for a slow query, for a database that has gone. What that can
hold up is bounded by lanes, each with threads of its own, and in a lane by the number of threads
that requests for one path may have, which is where those meet that wait for one row. A request that
gets no thread in time is told so.

A request that waits for a job has no thread: the application says so (app/waiting.py), and is asked
once more when there may be something to say.

Servers that do all of that were looked for, and measured: see docs/inside.md.
"""

import asyncio
import contextlib
import email.utils
import functools
import html
import http
import io
import json
import logging
import resource
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

import httptools
import uvloop
from flask import Flask

from rota.app.errors import WORDS_BY_STATUS
from rota.app.inputs import MAX_BODY_BYTES
from rota.app.paths import is_page
from rota.app.protection import HEADERS, LOCAL_ADDRESS
from rota.app.waiting import CAN_WAIT, UNDELIVERED, WAITS_FOR, Wait, Waiting

if TYPE_CHECKING:
    from rota.app.front import Front

TICK_SECONDS = 0.1
LARGEST_UPLOAD = 4 * MAX_BODY_BYTES  # what is let in to be refused in JSON
LARGEST_HEAD = 64 * 1024
MOST_HEADERS = 500
ALL_UPLOADS = 128 * MAX_BODY_BYTES  # what all requests that are on their way may have brought
LONGEST_ANSWERS = 16 * MAX_BODY_BYTES  # that a client may leave unread and have more made for it

CONNECTIONS = 4000  # or fewer, where the system allows fewer open files
OTHER_FILES = 200  # for connections to the database, and what Python opens
BACKLOG = 1024  # connections that the system keeps until we accept them
ACCEPTED_AT_ONCE = 100
EVICTED_AT_ONCE = 1 / 20  # of the places

# What a client has to do next, and how many seconds it may take.
HEAD, IDLE, BODY, ANSWER = "head", "idle", "body", "answer"
PATIENCE = {HEAD: 10, IDLE: 60, BODY: 30, ANSWER: 60}
EVICTED_FIRST = [HEAD, IDLE, BODY, ANSWER]

QUEUE_SECONDS = 5  # how long a request may wait for a thread
LONGEST_QUEUE = 2000  # requests that may wait for one of a lane's

# The lanes, and how many threads each has.
OWN = "own"  # what is answered without the database
READY = "ready"
PROBES = "probes"  # writes that may hang
READS = "reads"
CHANGES = "changes"
PAGES = "pages"
LANES = {OWN: 1, READY: 1, PROBES: 1, READS: 4, CHANGES: 8, PAGES: 4}
OWN_PATHS = ("/apidocs", "/ui/static/")
SPARED = 1 / 4  # of a lane's threads, by requests for one path

BUSY = 503, "too many requests are ahead of this one; try again"
REASONS = {status.value: status.phrase for status in http.HTTPStatus}

PROBLEM = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
    '<body><main><p>{status}</p><h1>{title}</h1><p><a href="/ui/">To the overview</a></p></main>'
    "</body></html>\n"
)

log = logging.getLogger("rota.api")


def listen(host: str, port: str) -> list[socket.socket]:
    """Open the sockets on which connections come in.

    Raises:
        OSError: the port is taken, or the host is none of ours.
        ValueError: it is not a port.
    """
    if not 0 <= int(port) <= 65535:
        raise ValueError(f"{port} is not a port")
    sockets = []
    found = socket.getaddrinfo(
        host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, kind, protocol, _, address in dict.fromkeys(found):
        one = socket.socket(family, kind, protocol)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(BACKLOG)
        sockets.append(one)
    return sockets


class Server:
    """Serves the application on sockets that listen, until it is closed.

    Args:
        app: what answers.
        listeners: what ``listen`` returned.
    """

    def __init__(self, app: "Flask | Front", listeners: list[socket.socket]) -> None:
        self.loop = uvloop.new_event_loop()
        self.connections: set[Connection] = set()
        self.waiting: Waiting = app.extensions["waiting"]
        self.stopping = False
        self._app = app.wsgi_app
        self._listeners = listeners
        self._done: deque[tuple[Request, bytes]] = deque()  # answers on their way to the loop
        self._ticked = 0.0
        self._opening: set[asyncio.Task[Any]] = set()
        self._lanes = {name: Lane(name, threads, self.answer) for name, threads in LANES.items()}
        for listener in listeners:
            listener.setblocking(False)
            self.loop.add_reader(listener, self._accept, listener)

    def run(self, until: Callable[[], bool], each_second: Callable[[], None]) -> None:
        """Serve until something is so."""
        self.loop.run_until_complete(self._run(until, each_second))

    async def _run(self, until: Callable[[], bool], each_second: Callable[[], None]) -> None:
        while not until():
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            if now >= self._ticked + 1:
                self._ticked = now
                for lane in self._lanes.values():
                    for request in lane.take_overdue(now):
                        self.refuse(request, *BUSY)
                self._end_overdue(now)
                each_second()

    def stop_listening(self) -> None:
        """Accept no more connections, and have nobody wait for a job any more."""
        self.stopping = True
        for listener in self._listeners:
            self.loop.remove_reader(listener)
            listener.close()
        self.waiting.stop()

    def is_busy(self) -> bool:
        """Tell whether requests that have arrived are not answered yet."""
        return any(connection.owes_an_answer() for connection in list(self.connections))

    def take(self, request: "Request") -> None:
        """Give a request to the threads that are for its kind; called by any thread."""
        lane = self._lanes[request.lane]
        if request.refusal is not None or not lane.add(request):
            self.loop.call_soon_threadsafe(self.refuse, request, *(request.refusal or BUSY))

    def answer(self, request: "Request") -> None:
        """Ask the application, in a thread of a lane."""
        if request.connection.gone and UNDELIVERED not in request.environ:
            self._has_waited(request)
            return
        request.environ["wsgi.input"].seek(0)
        try:
            answer = ask(self._app, request)
        finally:
            wait = request.environ.pop(WAITS_FOR, None)
            stays = wait is not None and not request.connection.gone and not self.stopping
            if not stays:
                self._has_waited(request)
        if not stays:
            self._send_soon(request, answer)
            return
        wait.again = functools.partial(self.take, request)
        wait.give_up = functools.partial(self._send_soon, request, answer)
        request.wait = wait
        self.waiting.add(wait)
        if request.connection.gone:  # since we looked
            self.waiting.forget(wait)

    def _has_waited(self, request: "Request") -> None:
        """Let the next of those who wait look."""
        wait, request.wait = request.wait, None
        if wait is not None:
            self.waiting.done(wait)

    def _send_soon(self, request: "Request", answer: bytes) -> None:
        """Have the loop send an answer; it is woken once for all that come meanwhile."""
        self._done.append((request, answer))
        if len(self._done) == 1:
            self.loop.call_soon_threadsafe(self._send_all)

    def _send_all(self) -> None:
        while self._done:
            request, answer = self._done[0]
            request.connection.send(request, answer)
            self._done.popleft()

    def refuse(self, request: "Request", status: int, message: str) -> None:
        """Answer in the loop without asking the application, as its own errors are."""
        self._has_waited(request)
        kind, body = _told(request, status, message)
        headers = [*HEADERS.items(), ("Content-Type", kind)]
        headers.append(("Cache-Control", "no-store"))
        if status == 503:
            headers.append(("Retry-After", "1"))
        answer = written(request, f"{status} {REASONS[status]}", headers, body.encode())
        request.connection.send(request, answer)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no more files, say
                self._evict()
                return
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opening = self.loop.create_task(self._open(sock))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, sock: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: Connection(self), sock)
        except OSError:  # the client has gone already
            sock.close()
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if len(self.connections) > max(10, min(CONNECTIONS, files - OTHER_FILES)):
            self._evict()

    def _evict(self) -> None:
        """Close the connections that are missed least: that have waited longest for nothing.

        First those that never asked for anything, or are not done with asking; then those between
        two requests; then those that bring a body or take an answer. Those whose request is being
        answered stay.
        """
        waiting = [
            (EVICTED_FIRST.index(phase), connection.waits_since, id(connection), connection)
            for connection in self.connections
            if (phase := connection.phase()) is not None
        ]
        count = 1 + int(len(self.connections) * EVICTED_AT_ONCE)
        for *_, connection in sorted(waiting)[:count]:
            connection.abort()

    def _end_overdue(self, now: float) -> None:
        """Close the connections of clients that took too long, or brought too much at once."""
        uploads = []
        for connection in list(self.connections):
            if connection.is_overdue(now) or (self.stopping and connection.phase() == IDLE):
                connection.abort()
            elif connection.request is not None:
                uploads.append(connection)
        brought = sum(connection.request.brought for connection in uploads)
        for connection in sorted(uploads, key=lambda connection: connection.waits_since):
            if brought <= ALL_UPLOADS:
                break
            brought -= connection.request.brought
            connection.abort()


class Request:
    """One request, from its first byte on."""

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.has_head = False
        self.body: list[bytes] = []
        self.brought = 0  # bytes of the body
        self.http_1_0 = False
        self.keep_alive = False
        self.refusal: tuple[int, str] | None = None
        self.environ: dict[str, Any] = {}
        self.path = ""
        self.lane = OWN
        self.asked_at = 0.0  # of a lane
        self.wait: Wait | None = None
        self.is_head = False

    def complete(self, method: str) -> None:
        """Write down what WSGI says of it."""
        connection = self.connection
        self.is_head = method == "HEAD"
        target = self.target.decode("latin-1")
        if target.startswith("/"):
            path, _, query = target.partition("?")
        else:
            try:
                parts = urlsplit(target)
            except ValueError:
                self.refusal = 400, WORDS_BY_STATUS[400]
                return
            path, query = parts.path, parts.query
        data = b"".join(self.body)
        self.path = unquote_to_bytes(path).decode("latin-1")
        said = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": self.path,
            "QUERY_STRING": query,
            "REQUEST_URI": target,
            "SERVER_PROTOCOL": "HTTP/1.0" if self.http_1_0 else "HTTP/1.1",
            "SERVER_NAME": connection.local[0],
            "SERVER_PORT": str(connection.local[1]),
            "REMOTE_ADDR": connection.remote,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(data),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            LOCAL_ADDRESS: connection.local[0],
            CAN_WAIT: True,
        }
        for name, value in self.headers:
            if b"_" in name:  # which would pass for a dash
                continue
            key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
            text = value.decode("latin-1")
            said[key] = f"{said[key]}, {text}" if key in said else text
        said.pop("HTTP_CONTENT_LENGTH", None)
        said.pop("HTTP_TRANSFER_ENCODING", None)
        said["CONTENT_TYPE"] = said.pop("HTTP_CONTENT_TYPE", "")
        said["CONTENT_LENGTH"] = str(len(data))
        self.environ = said
        self.lane = lane_of(method, self.path, query)
        self.headers = self.body = []


class Connection(asyncio.Protocol):
    """One client's connection; the parser calls it for each part of a request."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._unanswered: deque[Request] = deque()  # have arrived; the first is being answered
        self._has_asked = False
        self._head_bytes = 0
        self._ends = False  # what comes is not read any more
        self._hung_up = False  # or at least says nothing more
        self._lingers = False  # everything is said, the client only has to hear it
        self._waits_for: tuple[str | None, Any] = (HEAD, None)
        self.request: Request | None = None  # that has not arrived to its end
        self.gone = False
        self.waits_since = time.monotonic()  # for the client to do what it has to do next

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin."""
        self._transport = transport
        self.local = transport.get_extra_info("sockname") or ("", 0)
        self.remote = (transport.get_extra_info("peername") or [""])[0]
        self._server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget it, and let nobody work for it: a claim that waits is made for nobody."""
        self.gone = True
        self._server.connections.discard(self)
        for request in self._unanswered:
            if request.wait is not None:
                self._server.waiting.forget(request.wait)

    def eof_received(self) -> bool:
        """Go on with what was asked for already; whoever waits for a job has hung up, though."""
        waits = any(request.wait is not None for request in self._unanswered)
        self._ends = self._hung_up = True
        return bool(self._unanswered) and not waits

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._ends:
            return
        if self.request is None or not self.request.has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # to which we do not go over: the answer is ours
            self._ends = True
            if self._unanswered:
                self._unanswered[-1].keep_alive = False
        except httptools.HttpParserError:
            self._refuse(400, WORDS_BY_STATUS[400])
        if self._head_bytes >= LARGEST_HEAD and self.request and not self.request.has_head:
            self._refuse(431, "the head of the request is too large")
        if len(self._unanswered) > 1:
            self._transport.pause_reading()

    def _refuse(self, status: int, message: str) -> None:
        """Answer the request that is being read, which is the last one that is."""
        if self._ends:
            return
        request = self.request or Request(self)
        self.request = None
        self._ends = True
        request.refusal = status, message
        request.keep_alive = False
        self._enqueue(request)

    def on_message_begin(self) -> None:
        """Begin a request, at its first byte."""
        self.request = Request(self)

    def on_url(self, data: bytes) -> None:
        """Take in a part of the target."""
        if self.request is not None:
            self.request.target += data

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a header, or a trailer, which is of no use to us."""
        if self.request is None or self.request.has_head:
            return
        self.request.headers.append((name, value or b""))
        if len(self.request.headers) > MOST_HEADERS:
            self._refuse(431, "the head of the request is too large")

    def on_headers_complete(self) -> None:
        """Look at the head, and whether the body is one that we shall take."""
        request = self.request
        if self._ends or request is None:
            return
        request.has_head = True
        self._head_bytes = 0
        request.http_1_0 = self._parser.get_http_version() == "1.0"
        request.keep_alive = self._parser.should_keep_alive()
        waits = False
        for name, value in request.headers:
            match name.lower():
                case b"content-length" if int(value) > LARGEST_UPLOAD:
                    self._refuse(413, WORDS_BY_STATUS[413])
                case b"transfer-encoding" if request.http_1_0:
                    self._refuse(400, WORDS_BY_STATUS[400])
                case b"expect" if value.lower() == b"100-continue" and not self._unanswered:
                    waits = True
        if waits and not self._ends:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Take in a part of the body."""
        request = self.request
        if self._ends or request is None:
            return
        request.brought += len(data)
        if request.brought > LARGEST_UPLOAD:
            self._refuse(413, WORDS_BY_STATUS[413])
        else:
            request.body.append(data)

    def on_message_complete(self) -> None:
        """Have it answered when those before it are."""
        request, self.request = self.request, None
        if request is None or self._ends:
            return
        request.complete(self._parser.get_method().decode("latin-1"))
        if not request.keep_alive:
            self._ends = True
        self._enqueue(request)

    def _enqueue(self, request: Request) -> None:
        self._has_asked = True
        self._unanswered.append(request)
        if len(self._unanswered) == 1:
            self._server.take(request)

    def send(self, request: Request, answer: bytes) -> None:
        """Send an answer; the requests that came after it are next. In the loop only."""
        if self._hung_up and UNDELIVERED in request.environ:
            self.abort()  # jobs were claimed for whoever says nothing more
            self.gone = True
        if self.gone or not self._unanswered or self._unanswered[0] is not request:
            self._take_back(request)
            return
        self._unanswered.popleft()
        self._transport.write(answer)
        self.waits_since = time.monotonic()
        last = self._ends and not self._unanswered
        if last or not request.keep_alive or self._server.stopping:
            self._unanswered.clear()
            self._say_goodbye(request)
        elif self._transport.get_write_buffer_size() > LONGEST_ANSWERS:
            self._unanswered.clear()
            self._ends = True
            self._transport.close()
        elif self._unanswered:
            self._server.take(self._unanswered[0])
        elif not self._ends:
            self._transport.resume_reading()

    def _take_back(self, request: Request) -> None:
        """Have the application know that nobody got its answer, if that makes a difference."""
        if request.environ.get(UNDELIVERED) is False:
            request.environ[UNDELIVERED] = True
            self._server.take(request)

    def _say_goodbye(self, request: Request) -> None:
        """Close when all has been sent.

        A client whose request was refused may be sending still, and would not hear us if the
        connection were gone: so it is to close it first, and what it sends is not read.
        """
        self._ends = True
        if request.refusal is None:
            self._transport.close()
            return
        self._lingers = True
        with contextlib.suppress(OSError):
            self._transport.write_eof()
        self._transport.resume_reading()

    def owes_an_answer(self) -> bool:
        """Tell whether a request has arrived whose answer is not on its way."""
        return bool(self._unanswered) or (
            not self._lingers and self._transport.get_write_buffer_size() > 0
        )

    def abort(self) -> None:
        """Close it as it is."""
        self._transport.abort()

    def phase(self) -> str | None:
        """Return what the client has to do next; None if it is our turn."""
        if self._unanswered:
            return None
        if self._lingers or self._transport.get_write_buffer_size():
            return ANSWER
        if self.request is None:
            return IDLE if self._has_asked else HEAD
        return BODY if self.request.has_head else HEAD

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


def ask(app: Callable[..., Iterable[bytes]], request: Request) -> bytes:
    """Return what the application answers to a request, as it goes over the wire."""
    began: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> None:
        began[:] = [status, headers]

    answered = app(request.environ, start)
    try:
        body = b"".join(answered)
    finally:
        if hasattr(answered, "close"):
            answered.close()
    return written(request, *began, body)


def _told(request: Request, status: int, message: str) -> tuple[str, str]:
    """Return the type and the text of a refusal: a page for who looks at pages."""
    if is_page(request.path or request.target.decode("latin-1").partition("?")[0]):
        words = message[:1].upper() + message[1:]
        return "text/html; charset=utf-8", PROBLEM.format(title=html.escape(words), status=status)
    body = {"code": f"HTTP{status}", "message": message, "detail": None, "hint": None}
    return "application/json", json.dumps(body)


def written(request: Request, status: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    """Return an answer as it goes over the wire."""
    lines = [f"HTTP/1.1 {status}"]
    lines += [f"{name}: {value}" for name, value in headers]
    has_length = any(name.lower() == "content-length" for name, _ in headers)
    if not has_length and status[:3] not in ("204", "304"):
        lines.append(f"Content-Length: {len(body)}")
    lines.append(f"Date: {_date(int(time.time()))}")
    if not request.keep_alive:
        lines.append("Connection: close")
    elif request.http_1_0:
        lines.append("Connection: keep-alive")
    if request.is_head:
        body = b""
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@functools.lru_cache(1)
def _date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


def lane_of(method: str, path: str, query: str = "") -> str:
    """Return the lane of a request."""
    if path == "/health/ready":
        return PROBES if query else READY
    if path in ("/", "/apispec.json", "/health/live") or path.startswith(OWN_PATHS):
        return OWN
    if method not in ("GET", "HEAD", "OPTIONS"):
        return CHANGES
    return PAGES if is_page(path) else READS


def most_of_a_path(threads: int) -> int:
    """Return how many of a lane's threads requests for one path may have."""
    return threads - int(threads * SPARED)


class Lane:
    """Threads, and the requests that wait for one, in order."""

    def __init__(self, name: str, threads: int, answer: Callable[[Request], None]) -> None:
        self._answer = answer
        self._most_of_a_path = most_of_a_path(threads)
        self._waiting: deque[Request] = deque()
        self._paths: Counter[str] = Counter()  # of the requests that have a thread
        self._changed = threading.Condition()
        for number in range(threads):
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True).start()

    def add(self, request: Request) -> bool:
        """Let a request wait; return whether there is room for it."""
        with self._changed:
            if len(self._waiting) >= LONGEST_QUEUE:
                return False
            request.asked_at = time.monotonic()
            self._waiting.append(request)
            self._changed.notify()
        return True

    def take_overdue(self, now: float) -> list[Request]:
        """Take out those that have waited too long."""
        with self._changed:
            overdue = [item for item in self._waiting if now - item.asked_at > QUEUE_SECONDS]
            for item in overdue:
                self._waiting.remove(item)
        return overdue

    def _serve(self) -> None:
        while True:
            with self._changed:
                while (request := self._next()) is None:
                    self._changed.wait()
                self._paths[request.path] += 1
            try:
                self._answer(request)
            except Exception:
                log.exception("a request was not answered")
            finally:
                with self._changed:
                    self._paths[request.path] -= 1
                    if not self._paths[request.path]:
                        del self._paths[request.path]
                    if self._waiting:
                        self._changed.notify()

    def _next(self) -> Request | None:
        """Take the first that may have a thread."""
        for place, request in enumerate(self._waiting):
            if self._paths[request.path] < self._most_of_a_path:
                del self._waiting[place]
                return request
        return None
