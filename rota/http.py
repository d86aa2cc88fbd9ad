"""The task ``http``: a job that is one HTTP request. ``rota worker --tasks rota.http``.

Nothing may be called that the worker's configuration does not name (``ROTA_HTTP_HOSTS``): whoever
may enqueue a job would else reach, from where the worker stands, what he cannot reach himself.
"""

import base64
import hashlib
import hmac
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from rota.tracing import outgoing
from rota.worker.clock import clock
from rota.worker.job import Fail, Job, Retry
from rota.worker.tasks import task
from rota.worker.values import encode

HOSTS = "ROTA_HTTP_HOSTS"
SECRET = "ROTA_HTTP_SECRET_"

PORTS = {"http": 80, "https": 443}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
KEYS = {
    *("url", "method", "headers", "secret_headers", "json", "text", "sign", "expect", "timeout"),
    "redirects",
}
LARGEST_BODY = 1_000_000  # bytes that are sent
LARGEST_ANSWER = 64 * 1024  # bytes of the answer that are kept
LONGEST = 300.0  # seconds
USUAL = 30.0
MOST_REDIRECTS = 5
LONGEST_RETRY_AFTER = timedelta(days=1)
PASSING = {408, 425, 429}  # of 4xx: what may be otherwise at the next try
OURS = {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"}
HOLD_IPV4 = [ipaddress.ip_network(text) for text in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")]
NOT_PUBLIC = [  # that Python 3.11 takes for public; some clouds tell of their machines there
    ipaddress.ip_network(text)
    for text in (
        *("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32"),
        *("64:ff9b:1::/48", "fec0::/10", "5f00::/16"),
    )
]
PERSONAL = ("authorization", "cookie", "proxy-authorization")  # headers for one origin only

HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@task("http")
def request(job: Job) -> dict[str, Any]:
    """Send the request that the payload describes, and return the answer.

    The payload's keys:
        url: http or https, of a host that ``ROTA_HTTP_HOSTS`` allows.
        method: ``POST``, where none is given.
        headers: an object of texts.
        secret_headers: an object of names; the value of each header is the worker's environment
            variable ``ROTA_HTTP_SECRET_`` and that name, so that no secret is stored in a job.
        json: the body, any JSON value; or ``text``: the body as it is.
        sign: the name of a secret with which id, time and body are signed, as Standard Webhooks
            says (``webhook-id``, ``webhook-timestamp``, ``webhook-signature``). The id is the same
            in every attempt of a run.
        expect: the statuses that mean success: a list of numbers; 200 to 299, where none is given.
        timeout: seconds for all of it, at most 300; 30, where none is given.
        redirects: how many are followed, at most 5; none, where none is given.

    Returns:
        ``status``, ``headers`` and ``body``, of which 64 KiB are kept (``truncated``): JSON where
        the answer is, else text.

    Raises:
        Fail: the payload is wrong, or asks for what is not allowed; or the answer is a 3xx or 4xx,
            which would be the same another time.
        Retry: the answer says after how long to come again (``Retry-After``).
        OSError: the host could not be reached, or the time was over: the next try may do better.
    """
    call = Call.of(job)
    ends_at = clock() + min(call.timeout, job.timeout or LONGEST)
    for _ in range(call.redirects + 1):
        status, headers, body = _send(job, call, ends_at)
        target = headers.get("location")
        if status not in (301, 302, 303, 307, 308) or target is None or not call.redirects:
            break
        call = call.redirected(status, target)
    else:
        raise Fail(f"more than {call.redirects} redirects, the last to {target}")
    if not call.expects(status):
        raise _refusal(status, headers, body)
    return _answer(status, headers, body)


class Call(NamedTuple):
    """A request, checked."""

    url: SplitResult
    method: str
    headers: dict[str, str]
    body: bytes | None
    secrets: dict[str, str]  # headers, and what the worker's environment holds for them
    key: bytes | None  # to sign with
    expected: tuple[int, ...] | None
    timeout: float
    redirects: int
    shown: tuple[bytes, ...]  # secrets that were sent, to be struck out of what comes back

    @classmethod
    def of(cls, job: Job) -> "Call":
        """Read a job's payload.

        Raises:
            Fail: it is no request.
        """
        payload = job.payload
        if not isinstance(payload, dict) or not isinstance(payload.get("url"), str):
            raise Fail('the payload must be an object with a "url"')
        if unknown := sorted(payload.keys() - KEYS):
            raise Fail(f"a request has no {unknown[0]!r}; it has {', '.join(sorted(KEYS))}")
        method = payload.get("method", "POST")
        if method not in METHODS:
            raise Fail(f"method must be one of {', '.join(METHODS)}")
        headers = _texts(payload, "headers")
        body = None
        if "json" in payload and "text" in payload:
            raise Fail("a request has one body: json or text")
        if "json" in payload:
            body = json.dumps(payload["json"], ensure_ascii=False).encode()
            headers = {"content-type": "application/json"} | headers
        elif "text" in payload:
            if not isinstance(payload["text"], str):
                raise Fail("text must be a text")
            body = payload["text"].encode()
            headers = {"content-type": "text/plain; charset=utf-8"} | headers
        if body is not None and len(body) > LARGEST_BODY:
            raise Fail(f"a body of {len(body)} bytes is larger than {LARGEST_BODY}")
        expected = payload.get("expect")
        if expected is not None and not (
            isinstance(expected, list) and all(type(it) is int for it in expected)
        ):
            raise Fail("expect must be a list of statuses")
        sign = payload.get("sign")
        secrets = {name: _secret(it) for name, it in _texts(payload, "secret_headers").items()}
        return cls(
            _url(payload["url"]),
            method,
            headers,
            body,
            secrets,
            None if sign is None else _secret(sign).encode(),
            None if expected is None else tuple(expected),
            _number(payload, "timeout", USUAL, LONGEST),
            int(_number(payload, "redirects", 0, MOST_REDIRECTS, least=0)),
            tuple(value.encode() for value in secrets.values()),
        )

    def expects(self, status: int) -> bool:
        """Tell whether this answer means success."""
        return 200 <= status < 300 if self.expected is None else status in self.expected

    def redirected(self, status: int, target: str) -> "Call":
        """Return the request that a redirect asks for; another origin gets no secret.

        Raises:
            Fail: its target is no URL that may be called.
        """
        try:
            url = _url(urljoin(self.url.geturl(), target))
        except ValueError as error:
            raise Fail(f"a redirect to no URL: {error}") from None
        call = self._replace(url=url)
        if (url.scheme, url.netloc) != (self.url.scheme, self.url.netloc):
            headers = {name: it for name, it in call.headers.items() if name not in PERSONAL}
            call = call._replace(headers=headers, secrets={}, key=None)
        if status == 303 or (status in (301, 302) and self.method == "POST"):
            method = "HEAD" if self.method == "HEAD" else "GET"
            call = call._replace(method=method, body=None)
        return call


def _texts(payload: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return an object of headers, their names in lower case."""
    headers = payload.get(name, {})
    if not isinstance(headers, dict) or not all(isinstance(it, str) for it in headers.values()):
        raise Fail(f"{name} must be an object of texts")
    found = {key.lower(): value for key, value in headers.items()}
    for key, value in found.items():
        if not HEADER.fullmatch(key) or not value.isascii() or CONTROL.search(value):
            raise Fail(f"{key!r} cannot be a header of HTTP, or its value cannot: ASCII, one line")
        if key in OURS:
            raise Fail(f"the header {key!r} follows from the request")
    return found


def _number(
    payload: Mapping[str, Any], name: str, usual: float, most: float, least: float = 0.001
) -> float:
    value = payload.get(name, usual)
    if type(value) not in (int, float) or not least <= value <= most:
        raise Fail(f"{name} must be a number from {least:g} to {most:g}")
    return value


def _secret(name: Any) -> str:
    """Return a secret of the worker's environment.

    Raises:
        Fail: it has none of that name.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_]{1,100}", name):
        raise Fail("the name of a secret has letters, digits and _ only")
    if not (value := os.environ.get(SECRET + name, "")):
        raise Fail(f"this worker has no {SECRET}{name} in its environment")
    if not value.isascii() or not value.isprintable():
        raise Fail(f"{SECRET}{name} must be printable ASCII, to be sent in a header")
    return value


def _url(text: str) -> SplitResult:
    """Return the URL if its host may be called.

    Raises:
        Fail: it is no URL of HTTP, or its host and port are not allowed.
    """
    if not text.isascii() or re.search(r"[\x00-\x20\x7f\\]", text):
        raise Fail("a URL has neither spaces nor characters beyond ASCII: encode them (%20)")
    try:
        url = urlsplit(text)
        if url.scheme not in PORTS or not url.hostname:
            raise Fail("a URL begins with http:// or https:// and the name of a host")
        host, port = _place(url)
    except ValueError as error:
        raise Fail(f"no URL: {error}") from None
    if "@" in url.netloc:
        raise Fail("a URL with a password is stored and logged: use secret_headers")
    if not _is_allowed(host, port, PORTS[url.scheme]):
        raise Fail(f"{HOSTS} of this worker does not allow {host}:{port}")
    return url


def _place(url: SplitResult) -> tuple[str, int]:
    """Return the host and the port of a URL of HTTP.

    Raises:
        ValueError: its port is none.
    """
    port = PORTS[url.scheme] if url.port is None else url.port
    return (url.hostname or "").rstrip("."), port


def _is_allowed(host: str, port: int, usual: int) -> bool:
    """Tell whether an entry names this host: by itself (*.example.com: all below), and its port."""
    for entry in _entries():
        name, _, named_port = entry.rpartition(":")
        if not (named_port.isdecimal() and name and not _network(entry)):
            name, named_port = entry, str(usual)
        name = name.strip("[]")
        below = name.startswith("*.") and host.endswith(name[1:])
        if str(port) == named_port and (host == name or below):
            return True
    return False


def _entries() -> list[str]:
    return [entry.strip().lower() for entry in os.environ.get(HOSTS, "").split(",")]


def _network(entry: str) -> Network | None:
    try:
        return ipaddress.ip_network(entry.strip("[]"))
    except ValueError:
        return None


def _addresses(host: str, port: int) -> list[tuple[Any, ...]]:
    """Resolve a host once; what is connected to is what was checked.

    Raises:
        Fail: one of its addresses is not of the public internet, and no entry names its network.
        OSError: it does not resolve.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    named = [network for entry in _entries() if (network := _network(entry))]
    for *_, place in found:
        address = ipaddress.ip_address(str(place[0]).partition("%")[0])
        if not all(_is_public(it) or any(it in net for net in named) for it in _meant(address)):
            raise Fail(
                f"{host} is at {address}, which is not an address of the public internet;"
                f" {HOSTS} can name its network"
            )
    return found


def _meant(address: Address) -> Iterator[Address]:
    """Yield an address, or the one of IPv4 that it stands for."""
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if inside is None and any(address in network for network in HOLD_IPV4):
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            yield inside
            return
    yield address


def _is_public(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in NOT_PUBLIC)
    )


def _send(job: Job, call: Call, ends_at: float) -> tuple[int, dict[str, str], bytes]:
    """Send a request; return status, headers and the first bytes of the answer.

    Raises:
        Fail: the host is at an address that is not allowed.
        OSError: there is no answer, or none in time.
    """
    trace = {} if "traceparent" in call.headers else outgoing(job.headers)
    headers = {"user-agent": "rota", **trace, **call.headers, **call.secrets}
    if call.key is not None:
        headers |= _signature(job, call.key, call.body or b"")
    url = call.url
    host, port = _place(url)
    connection = _Pinned(host, port, _addresses(host, port), ends_at, url.scheme == "https")
    with _cut_at(connection, ends_at):
        try:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request(call.method, path, call.body, headers)
            answer = connection.getresponse()
            body = answer.read(LARGEST_ANSWER + 1 + max(map(len, call.shown), default=0))
        except (http.client.HTTPException, ValueError) as error:  # or it was cut meanwhile
            words = f"{type(error).__name__}: {error}"
            for secret in call.shown:  # a server may show what it was sent
                words = words.replace(secret.decode(), "***")
            raise ConnectionError(f"{host} gave no answer of HTTP: {words}") from None
        finally:
            connection.close()
    kept = {key.lower(): value for key, value in answer.getheaders()}
    for secret in call.shown:
        body = body.replace(secret, b"***")
        kept = {key: value.replace(secret.decode(), "***") for key, value in kept.items()}
    return answer.status, kept, body


class _Pinned(http.client.HTTPConnection):
    """A connection to one of the addresses that were checked, whatever the name means by now."""

    def __init__(
        self, host: str, port: int, addresses: list[Any], ends_at: float, encrypted: bool
    ) -> None:
        super().__init__(host, port)
        self.default_port = PORTS["https" if encrypted else "http"]
        self._addresses = addresses
        self._ends_at = ends_at
        self._encrypted = encrypted
        self._wire: socket.socket | None = None  # the response keeps it when sock is given up
        self.over = False

    def connect(self) -> None:
        """Connect to the first address that answers."""
        error: OSError = ConnectionError(f"{self.host} has no address")
        context = ssl.create_default_context() if self._encrypted else None
        for family, kind, protocol, _, place in self._addresses:
            self.sock = self._wire = socket.socket(family, kind, protocol)
            try:
                self.sock.settimeout(max(0.001, self._ends_at - clock()))
                self.sock.connect(place)
                if context is not None:
                    self.sock = context.wrap_socket(
                        self.sock, server_hostname=self.host, do_handshake_on_connect=False
                    )  # not in there, where nobody could cut it
                    self._wire = self.sock
                    self.sock.do_handshake()
            except OSError as caught:
                self.sock.close()
                error = caught
            else:
                return
        raise error

    def cut(self) -> None:
        """End what waits for this connection; called from another thread."""
        self.over = True
        if self._wire is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._wire, socket.SHUT_RDWR)


@contextmanager
def _cut_at(connection: _Pinned, ends_at: float) -> Iterator[None]:
    """End a connection when its time is over: a timeout of a socket begins anew with each byte.

    Raises:
        TimeoutError: it was.
    """
    timer = threading.Timer(max(0.0, ends_at - clock()), connection.cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except OSError as error:
        if connection.over or isinstance(error, TimeoutError):
            raise TimeoutError("the time of this request was over") from error
        raise
    finally:
        timer.cancel()
    if connection.over:
        raise TimeoutError("the time of this request was over")


def _signature(job: Job, key: bytes, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks 1.0 (standardwebhooks.com), scheme v1."""
    if key.startswith(b"whsec_"):  # as that standard writes its keys
        key = base64.b64decode(key.removeprefix(b"whsec_"))
    name, at = f"rota_{job.id}_{job.run}", str(int(time()))
    signed = b".".join([name.encode(), at.encode(), body])
    digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {"webhook-id": name, "webhook-timestamp": at, "webhook-signature": f"v1,{digest}"}


def _answer(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return what is kept of an answer, as a job's result can hold it."""
    answer: dict[str, Any] = {"status": status, "headers": _storable_headers(headers)}
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if len(body) > LARGEST_ANSWER:
        answer |= {"body": _text(body[:LARGEST_ANSWER]), "truncated": True}
    elif kind == "application/json" or kind.endswith("+json"):
        try:
            answer["body"] = json.loads(body)
            encode(answer["body"])
        except (ValueError, RecursionError):  # not JSON, or not what the database can store
            answer["body"] = _text(body)
    else:
        answer["body"] = _text(body)
    return answer


def _storable_headers(headers: Mapping[str, str]) -> dict[str, str]:
    kept = ("content-type", "date", "etag", "location", "retry-after", "x-request-id")
    return {name: _text(headers[name].encode("latin-1"))[:1000] for name in kept if name in headers}


def _text(body: bytes) -> str:
    return body.decode(errors="replace").replace("\0", "\ufffd")


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> Exception:
    """Return how the attempt fails for an answer that means no success: see ``request``."""
    text = f"the answer was {status}: {_text(body[:500])}"
    if 300 <= status < 500 and status not in PASSING:
        return Fail(text)
    if (delay := _retry_after(headers.get("retry-after"))) is not None:
        return Retry(text, in_=min(delay, LONGEST_RETRY_AFTER))
    return ConnectionError(text)


def _retry_after(value: str | None) -> timedelta | None:
    """Read the header Retry-After (RFC 9110, 10.2.3): seconds, or a date."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value):
        return timedelta(seconds=int(value))
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(timedelta(), at - datetime.now(UTC))
