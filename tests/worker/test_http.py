"""The task http: what it sends, what it makes of answers, and whom it never calls."""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import rota.http
from rota import Fail, Retry
from rota.worker.attempt import Attempt
from rota.worker.clock import clock
from rota.worker.values import result_of
from tests.tracing import tracing_to_memory, written
from tests.waiting import wait_until

LOCAL = "127.0.0.0/8"


class Site(ThreadingHTTPServer):
    """A server that answers as it is told, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), Page)
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[Page], None] = lambda page: page.say(200, {}, b"")

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_port}"


class Page(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Site

    def handle_any(self) -> None:
        """Note the request, and answer."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.server.asked.append(
            {"method": self.command, "path": self.path, "headers": headers, "body": body}
        )
        self.server.answer(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def say(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server on loopback that may be called."""
    with serving(Site()) as found:
        allow(monkeypatch, f"127.0.0.1:{found.server_port}", LOCAL)
        yield found


class serving:  # noqa: N801 (read as a word)
    """Serve until the end of the block."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def __enter__(self) -> Site:
        self._thread = threading.Thread(target=self._site.serve_forever, args=[0.02])
        self._thread.start()
        return self._site

    def __exit__(self, *_: object) -> None:
        self._site.shutdown()
        self._thread.join()
        self._site.server_close()


def allow(monkeypatch: pytest.MonkeyPatch, *entries: str) -> None:
    monkeypatch.setenv("ROTA_HTTP_HOSTS", ", ".join(entries))


def run(
    payload: Any, timeout: float | None = None, headers: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run the handler for a job with this payload, as a worker does."""
    text = json.dumps(payload)
    carried = None if headers is None else json.dumps(headers)
    row = (7, "token", "http", text, "default", 1, 3, timeout, 0.0, 2, carried, None)
    return rota.http.request(Attempt(row, clock(), clock() + 60, lambda job: None))


def test_a_request_is_sent_as_the_payload_says_and_its_answer_is_the_result(site: Site) -> None:
    site.answer = lambda page: page.say(201, {"Content-Type": "application/json"}, b'{"id": 1}')

    result = run(
        {
            "url": f"{site.url}/hooks?a=1#part",
            "method": "PUT",
            "headers": {"X-Kind": "test"},
            "json": {"to": "Zoë"},
        }
    )

    assert (result["status"], result["body"]) == (201, {"id": 1})
    assert result["headers"]["content-type"] == "application/json"
    (asked,) = site.asked
    assert (asked["method"], asked["path"]) == ("PUT", "/hooks?a=1")
    assert json.loads(asked["body"]) == {"to": "Zoë"}
    assert asked["headers"]["x-kind"] == "test"
    assert asked["headers"]["content-type"] == "application/json"
    assert asked["headers"]["host"] == site.url.removeprefix("http://")


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        (None, (None, None)),
        ({"traceparent": TRACEPARENT, "tenant": "acme"}, (TRACEPARENT, None)),
        ({"traceparent": TRACEPARENT, "tracestate": "a=b"}, (TRACEPARENT, "a=b")),
        ({"traceparent": TRACEPARENT, "tracestate": "ü" * 9}, (TRACEPARENT, None)),
        ({"traceparent": "ü", "tracestate": "a=b"}, (None, None)),
    ],
)
def test_a_request_carries_on_the_trace_of_its_job_and_no_other_header(
    site: Site, headers: dict[str, str] | None, sent: tuple[str | None, str | None]
) -> None:
    run({"url": site.url}, headers=headers)
    run({"url": site.url, "headers": {"traceparent": "its own"}}, headers=headers)

    ours, its_own = [asked["headers"] for asked in site.asked]
    assert (ours.get("traceparent"), ours.get("tracestate")) == sent
    assert "tenant" not in ours
    assert (its_own["traceparent"], its_own.get("tracestate")) == ("its own", None)


def test_a_request_belongs_to_the_span_of_its_attempt(site: Site) -> None:
    with tracing_to_memory() as spans, spans.tracer.start_as_current_span("process") as span:
        run({"url": site.url}, headers={"traceparent": TRACEPARENT})

    assert site.asked[0]["headers"]["traceparent"] == written(span.get_span_context())


def test_a_worker_runs_it(start_worker, conn, job, site: Site, monkeypatch) -> None:
    monkeypatch.setenv("ROTA_HTTP_SECRET_KEY", "canary-a1b2c3")
    site.answer = lambda page: page.say(200, {}, page.headers["authorization"].encode())
    payload = {"url": site.url, "secret_headers": {"Authorization": "KEY"}}
    (asked,) = conn.execute(
        "select job_id from rota.enqueue_job('http', %s)", [json.dumps(payload)]
    ).fetchone()

    worker = start_worker(tasks=("--tasks", "rota.http"))
    wait_until(lambda: job(asked)["state"] == "COMPLETED")
    worker.stop()

    assert site.asked[0]["headers"]["authorization"] == "canary-a1b2c3"
    assert job(asked)["result"]["body"] == "***"
    assert "canary" not in json.dumps([job(asked)["result"], worker.lines])


@pytest.mark.parametrize(
    ("entries", "url"),
    [
        ([], "http://127.0.0.1:{port}/"),
        (["127.0.0.1"], "http://127.0.0.1:{port}/"),
        ([LOCAL], "http://127.0.0.1:{port}/"),
        (["127.0.0.2:{port}", LOCAL], "http://127.0.0.1:{port}/"),
        (["example.com:{port}", LOCAL], "http://sub.example.com:{port}/"),
        (["*.example.com:{port}", LOCAL], "http://example.com:{port}/"),
        (["*.example.com:{port}", LOCAL], "http://evilexample.com:{port}/"),
        (["example.com:{port}", LOCAL], "http://example.com.evil.org:{port}/"),
        (["example.com:{port}", LOCAL], "http://example.com@127.0.0.1:{port}/"),
        (["127.0.0.1:{port}", LOCAL], "http://127.0.0.1:{port}\\@example.com/"),
        (["127.0.0.1:{port}", LOCAL], "http://127.1:{port}/"),
        (["127.0.0.1:{port}", LOCAL], "http://2130706433:{port}/"),
        (["127.0.0.1:{port}", LOCAL], "ftp://127.0.0.1:{port}/"),
        (["127.0.0.1:{port}", LOCAL], "file:///etc/passwd"),
        (["127.0.0.1:{port}", LOCAL], "http:///path"),
        (["127.0.0.1:{port}", LOCAL], "http://[127.0.0.1:{port}/"),
        (["127.0.0.1:{port}", LOCAL], "http://127.0.0.1:{port}/\r\nX: 1"),
        (["127.0.0.1:{port}", LOCAL], "http://127.0.0.1:99999/"),
        (["127.0.0.1:{port}", LOCAL], "http://127.0.0.1:{port}/ä"),
    ],
)
def test_what_no_entry_allows_is_not_called(monkeypatch, site, entries, url) -> None:
    allow(monkeypatch, *(entry.format(port=site.server_port) for entry in entries))

    with pytest.raises(Fail):
        run({"url": url.format(port=site.server_port)})

    assert site.asked == []


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%lo", "fc00::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1"),
        *("::127.0.0.1", "64:ff9b:1::a00:1", "2001:db8::1", "::ffff:0:7f00:1", "fec0::1"),
        *("192.0.0.192", "168.63.129.16"),
    ],
)
def test_a_name_that_leads_to_an_address_within_is_not_called(monkeypatch, address) -> None:
    allow(monkeypatch, "example.com")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, **_: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port)),
            (family, socket.SOCK_STREAM, 6, "", (address, port)),
        ],
    )
    connected = []
    monkeypatch.setattr(socket.socket, "connect", lambda *it: connected.append(it))

    with pytest.raises(Fail, match="not an address of the public internet"):
        run({"url": "http://example.com/"})

    assert connected == []


def test_a_name_that_means_another_address_at_the_second_look_gets_nowhere(
    monkeypatch, site
) -> None:
    """DNS rebinding: what was checked is what is connected to, for there is no second look."""
    with serving(Site("127.0.0.2")) as inner:
        allow(monkeypatch, f"rebinds.example:{site.server_port}", "127.0.0.1/32")
        answers = iter(["127.0.0.1", "127.0.0.2", "127.0.0.2"])
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, port, **_: [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))
            ],
        )

        assert run({"url": f"http://rebinds.example:{site.server_port}/"})["status"] == 200
        with pytest.raises(Fail, match=r"127\.0\.0\.2"):
            run({"url": f"http://rebinds.example:{site.server_port}/"})

        assert site.asked[0]["headers"]["host"] == f"rebinds.example:{site.server_port}"
        assert inner.asked == []


def test_a_redirect_is_checked_like_the_url_and_takes_no_secret_to_another_origin(
    monkeypatch, site
) -> None:
    monkeypatch.setenv("ROTA_HTTP_SECRET_KEY", "canary")
    with serving(Site("127.0.0.2")) as other:
        payload = {
            "url": f"{site.url}/old",
            "headers": {"Cookie": "mine"},
            "secret_headers": {"Authorization": "KEY"},
            "sign": "KEY",
            "json": 1,
            "redirects": 1,
        }
        site.answer = lambda page: page.say(307, {"Location": f"{other.url}/new"}, b"")

        with pytest.raises(Fail, match="does not allow"):
            run(payload)
        assert other.asked == []

        allow(monkeypatch, f"127.0.0.1:{site.server_port}", f"127.0.0.2:{other.server_port}", LOCAL)
        run(payload)

        (asked,) = other.asked
        assert (asked["method"], asked["path"], asked["body"]) == ("POST", "/new", b"1")
        assert not {"authorization", "cookie", "webhook-signature"} & asked["headers"].keys()
        assert "authorization" in site.asked[0]["headers"]


def test_a_secret_that_the_server_shows_is_kept_nowhere(monkeypatch, site) -> None:
    monkeypatch.setenv("ROTA_HTTP_SECRET_KEY", "canary" * 10)
    payload = {"url": site.url, "secret_headers": {"Authorization": "KEY"}}
    shown = b"x" * (64 * 1024 - 20) + b"canary" * 10
    site.answer = lambda page: page.say(200, {"ETag": "canary" * 10, "Location": "/canary"}, shown)

    result = run(payload)

    assert result["headers"]["etag"] == "***"
    assert "canary" not in result["body"]
    site.answer = lambda page: page.say(302, {"Location": "/" + "canary" * 10}, b"")
    with pytest.raises(Fail, match=r"more than 1 redirects, the last to /[*]"):
        run(payload | {"redirects": 1})


def test_redirects_that_go_on_end(site: Site) -> None:
    site.answer = lambda page: page.say(302, {"Location": "/again"}, b"")

    with pytest.raises(Fail, match="more than 3 redirects"):
        run({"url": site.url, "redirects": 3})

    assert [asked["method"] for asked in site.asked] == ["POST", "GET", "GET", "GET"]


def test_without_redirects_one_is_no_success(site: Site) -> None:
    site.answer = lambda page: page.say(302, {"Location": "/again"}, b"")

    with pytest.raises(Fail, match="the answer was 302"):
        run({"url": site.url})


@pytest.mark.parametrize("key", ["plain key", "whsec_" + base64.b64encode(b"binary\0key").decode()])
def test_a_signature_is_that_of_standard_webhooks(monkeypatch, site, key) -> None:
    monkeypatch.setenv("ROTA_HTTP_SECRET_HOOK", key)

    run({"url": site.url, "text": "hello", "sign": "HOOK"})

    headers = site.asked[0]["headers"]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.hello".encode()
    secret = b"binary\0key" if key.startswith("whsec_") else key.encode()
    expected = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["webhook-id"] == "rota_7_2"  # the job and its run, whatever the attempt
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((400, Fail), (404, Fail), (422, Fail), (304, Fail)),
        *((408, ConnectionError), (425, ConnectionError), (429, ConnectionError)),
        *((500, ConnectionError), (503, ConnectionError)),
    ],
)
def test_what_may_be_otherwise_next_time_is_tried_again_and_what_would_be_the_same_is_not(
    site, status, error
) -> None:
    site.answer = lambda page: page.say(status, {}, b"no")

    with pytest.raises(error, match=f"the answer was {status}: "):
        run({"url": site.url})


def test_what_is_expected_is_success(site: Site) -> None:
    site.answer = lambda page: page.say(404, {}, b"gone already")

    assert run({"url": site.url, "method": "DELETE", "expect": [204, 404]})["status"] == 404
    site.answer = lambda page: page.say(200, {}, b"")
    with pytest.raises(ConnectionError):
        run({"url": site.url, "method": "DELETE", "expect": [204, 404]})


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("99999999", 86400, 86400),
        (lambda: format_datetime(datetime.now(UTC) + timedelta(minutes=5), usegmt=True), 290, 301),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
    ],
)
def test_retry_after_is_honoured(site, value, least, most) -> None:
    text = value if isinstance(value, str) else value()
    site.answer = lambda page: page.say(503, {"Retry-After": text}, b"")

    with pytest.raises(Retry) as caught:
        run({"url": site.url})

    assert least <= caught.value.delay.total_seconds() <= most


def test_a_retry_after_that_cannot_be_read_leaves_the_backoff_of_the_queue(site: Site) -> None:
    site.answer = lambda page: page.say(429, {"Retry-After": "soon"}, b"")

    with pytest.raises(ConnectionError):
        run({"url": site.url})


def test_of_a_large_answer_the_beginning_is_kept(site: Site) -> None:
    site.answer = lambda page: page.say(200, {"Content-Type": "application/json"}, b"[" * 10**7)

    result = run({"url": site.url})

    assert len(result["body"]) == 64 * 1024
    assert result["truncated"]


@pytest.mark.parametrize(
    "body", [b"\0\xff", b"NaN", b"1e999", b"1" * 9000, b"[" * 60_000, b'"\\ud800"', b"{"]
)
def test_any_answer_can_be_stored(conn, site, body) -> None:
    site.answer = lambda page: page.say(200, {"Content-Type": "application/json"}, body)

    result = run({"url": site.url})

    stored = result_of(result)
    assert isinstance(stored, str), stored
    conn.execute("select %s::jsonb", [stored])


@pytest.mark.parametrize("part", ["status", "headers", "body", "to the end", "old"])
def test_an_answer_that_drips_ends_in_time(site, part) -> None:
    """A timeout of a socket begins anew with each byte."""
    ended = threading.Event()

    def drip(page: Page) -> None:
        parts = {
            "status": b"",
            "headers": b"HTTP/1.1 200 OK\r\n",
            "body": b"",
            "to the end": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
            "old": b"HTTP/1.0 200 OK\r\n\r\n",
        }
        if part == "body":
            page.say(200, {"Content-Length": "1000"}, b"")
        page.wfile.write(parts[part])
        with suppress(OSError):
            while not ended.wait(0.05) and clock() < began + 5:
                page.wfile.write(b"1")
        page.close_connection = True

    site.answer = drip
    began = clock()

    with pytest.raises(TimeoutError, match="the time of this request was over"):
        run({"url": site.url, "timeout": 0.5})

    ended.set()
    assert clock() - began < 3


def test_the_job_s_own_timeout_bounds_the_request(site: Site) -> None:
    site.answer = lambda page: time.sleep(3)
    began = clock()

    with pytest.raises(TimeoutError):
        run({"url": site.url}, timeout=0.3)

    assert clock() - began < 2


def test_who_does_not_answer_is_tried_again(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    allow(monkeypatch, f"127.0.0.1:{port}", LOCAL)

    with pytest.raises(ConnectionError):
        run({"url": f"http://127.0.0.1:{port}/"})


def test_what_is_not_http_is_no_answer(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        allow(monkeypatch, f"127.0.0.1:{server.getsockname()[1]}", LOCAL)

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConnectionError, match="no answer of HTTP"):
            run({"url": f"http://127.0.0.1:{server.getsockname()[1]}/"})
        thread.join()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": 1}, 'with a "url"'),
        ({"metod": "GET"}, "no 'metod'"),
        ({"method": "TRACE"}, "method must be"),
        ({"headers": {"Host": "other"}}, "follows from the request"),
        ({"headers": {"Content-Length": "5"}}, "follows from the request"),
        ({"headers": {"X": "a\r\nY: b"}}, "cannot be a header"),
        ({"headers": {"X Y": "a"}}, "cannot be a header"),
        ({"headers": {"X": "ä"}}, "cannot be a header"),
        ({"headers": {"X": 1}}, "object of texts"),
        ({"headers": [1]}, "object of texts"),
        ({"json": 1, "text": "1"}, "one body"),
        ({"text": 1}, "text must be"),
        ({"text": "x" * 1_000_001}, "larger than"),
        ({"expect": 200}, "expect must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"timeout": 301}, "timeout must be"),
        ({"timeout": True}, "timeout must be"),
        ({"redirects": 6}, "redirects must be"),
        ({"secret_headers": {"X": "PATH"}}, "no ROTA_HTTP_SECRET_PATH"),
        ({"secret_headers": {"X": "../A"}}, "letters, digits"),
        ({"sign": "NONE"}, "no ROTA_HTTP_SECRET_NONE"),
    ],
)
def test_a_payload_that_is_no_request_is_refused_and_not_tried_again(site, change, message) -> None:
    with pytest.raises(Fail, match=message):
        run({"url": site.url} | change)

    assert site.asked == []
