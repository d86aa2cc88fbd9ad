"""Hostile requests to every route: each is refused in JSON, and the API lives on as it was."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from rota.app.inputs import MAX_BODY_BYTES
from tests.api.conftest import Server
from tests.api.documentation import OPERATIONS, operation, requests, resolve
from tests.waiting import wait_until

MEGABYTE = 2**20
GROWTH = 160 * MEGABYTE  # of the process, over some thousand requests of up to a megabyte
TAKE_A_BODY = [name for name in OPERATIONS if name.split()[0] in ("POST", "PUT", "PATCH")]
PLACES = {
    "{job_id}": "1",
    "{workflow_id}": "1",
    "{event}": "paid:7",
    "{queue}": "default",
    "{name}": "nightly",
}
DEPTH = 10_000

NOT_JSON = {
    "nothing of it": b"{",
    "a list": b"[]",
    "a number": b"7",
    "a BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"token": "x"}'.encode("utf-16"),
    "no UTF-8": b'{"\xff": 1}',
    "a NUL": b'{"a": 1}\0',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "a key that stands twice": b'{"task": "a", "task": "b"}',
    "deep inside one": b'{"payload": [{"a": {"b": 1, "b": 1}}]}',
    "a number of many digits": b'{"a": ' + b"9" * 5000 + b"}",
    "a large exponent": b'{"a": 1e131071}',
    "a small one": b'{"a": 1e-99999}',
    "deep lists": b'{"a": ' + b"[" * DEPTH + b"]" * DEPTH + b"}",
    "deep objects": b'{"a": ' + b'{"a":' * DEPTH + b"1" + b"}" * DEPTH + b"}",
    "deep and never closed": b"[" * (MAX_BODY_BYTES - 1),
    "many empty lists": b'{"a": [' + b"[]," * 300_000 + b"]}",
}

# In the place of each value of each example. What a route may take all the same is its affair.
VALUES = {
    "null": "null",
    "true": "true",
    "zero": "0",
    "less": "-1",
    "an integer's end": str(2**31),
    "an id's end": str(2**63),
    "many digits": "9" * 4000,
    "a large exponent": "1e400",
    "a small exponent": "1e-400",
    "a large number": "1e300",
    "a fraction": "0.1",
    "no text": '""',
    "a surrogate": r'"\ud800"',
    "a NUL": r'"a\u0000b"',
    "a line feed": r'"a\nb"',
    "Unicode": '"\u202e\u0663\U0001f600"',
    "long": '"' + "x" * 200_000 + '"',
    "a list": "[]",
    "an object": "{}",
    "a strange object": r'{"\u0000": 1}',
    "a list of lists": "[[[[]]]]",
    "deep": "[" * 500 + "]" * 500,
    "many": "[" + "1," * 50_000 + "1]",
    "many objects": "[" + "{}," * 50_000 + "{}]",
    "many texts": "[" + '"a",' * 20_000 + '"a"]',
    "a moment out of range": '"9999-12-31T23:59:59Z"',
    "an offset out of range": '"0001-01-01T00:00:00+23:59"',
}
PARAMETERS = (
    *("", "%00", "%ff", "%ED%A0%80", "%", "%zz", "%2e%2e%2f", "%0d%0aX:%20y", "%F0%9F%98%80"),
    *("-1", "9" * 25, "1e131071", "NaN", "%D9%A3", "0", "infinity", "true", "null"),
    *("x" * 5000, "'%3bselect", "a=b", "%2B", "2030-01-01T00:00:00", "infinity,1,1,FAILED"),
)
QUERIES = ("%00=%00", "%ff=%ff", "a" * 5000, "&" * 5000, "a[]=1", ";", "=", "%")
HEADERS = {
    "Authorization": ("Bearer", "Bearer " + "x" * 20_000, "Bearer \xff", "Basic eA==", "\x80"),
    "Idempotency-Key": ("", "x" * 20_000, "\xff", "a, b", '"quoted"'),
    "If-None-Match": ("*", '"', 'W/"', "x" * 20_000, '"a",' * 5000, "\xff", "W/*"),
    "If-Match": ("*", '"a"', "x" * 20_000),
    "If-Modified-Since": ("x", "Thu, 01 Jan 99999 00:00:00 GMT", "0"),
    "Range": ("bytes=0-0", "bytes=" + "0-0," * 5000, "x"),
    "Content-Type": ("application/json; charset=utf-16", "application/json; charset=\xff", "a/b"),
    "Content-Encoding": ("gzip", "br", "x"),
    "Accept": ("application/xml", "x" * 20_000, "*/*;q=x"),
    "Transfer-Encoding": ("gzip", "chunked, chunked", "identity", "\xff"),
    "Content-Length": ("-1", "1e3", "0x10", "9" * 400, "+5", "5, 5", "5 5", ""),
    "Connection": ("upgrade", "x" * 5000, "close, keep-alive"),
    "Upgrade": ("h2c", "websocket"),
    "Expect": ("100-continue", "200-ok"),
    "X-Forwarded-For": ("\xff", "127.0.0.1, 127.0.0.1"),
    "X-HTTP-Method-Override": ("DELETE",),
}

SILENT = {"Content-Length", "Connection", "Transfer-Encoding"}  # with these, no answer may come

CHUNKED = (
    b"POST /jobs/claim HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
GET = b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n"
# Bytes as they are sent, before the client says that there will be no more. Where there is no
# answer, the connection is closed.
RAW = {
    "half a line": b"POST /jobs",
    "half a head": GET,
    "half a body": b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
    "half a chunk": CHUNKED + b"ff\r\n{",
    "no last chunk": CHUNKED + b"2\r\n{}\r\n",
    "a negative chunk": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "a chunk of all memory": CHUNKED + b"ffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "a chunk of more than that": CHUNKED + b"f" * 300 + b"\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than said": CHUNKED + b"2\r\n{}{}\r\n0\r\n\r\n",
    "a chunk of no number": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "a long extension": CHUNKED + b"2;" + b"a=b;" * 50_000 + b"\r\n{}\r\n0\r\n\r\n",
    "many trailers": CHUNKED + b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "many small chunks": CHUNKED + b"1\r\n \r\n" * 200_000 + b"2\r\n{}\r\n0\r\n\r\n",
    "more chunks than a body": CHUNKED
    + b"fffff\r\n"
    + b" " * 0xFFFFF
    + b"\r\n2\r\n{}\r\n0\r\n\r\n",
    "10,000 headers": GET + b"X-Y: z\r\n" * 10_000 + b"\r\n",
    "a header of a megabyte": GET + b"X: " + b"y" * MEGABYTE + b"\r\n\r\n",
    "a name of a megabyte": GET + b"x" * MEGABYTE + b": y\r\n\r\n",
    "a target of a megabyte": b"GET /" + b"x" * MEGABYTE + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a query of a megabyte": b"GET /jobs?" + b"a=b&" * (MEGABYTE // 4) + b" HTTP/1.1\r\n\r\n",
    "a method of a megabyte": b"X" * MEGABYTE + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no method": b"/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a strange method": b"BREW /jobs HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/0.9": b"GET /jobs\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9": b"GET /jobs HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "a folded header": GET + b"X: a\r\n b\r\n\r\n",
    "a NUL in a header": GET + b"X: a\0b\r\n\r\n",
    "a NUL in a target": b"GET /jo\0bs HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space before the colon": GET + b"Content-Length : 5\r\n\r\nhello",
    "both lengths": b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
    b"Content-Length: 3\r\n\r\n{} ",
    "a megabyte of nothing": b"\r\n" * (MEGABYTE // 2),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 4,
}


@pytest.fixture
def process(server: Server) -> Iterator[psutil.Process]:
    """The server's process, whose memory may not grow and whose log has no fault of ours."""
    process = psutil.Process(server.process.pid)
    for _ in range(20):
        server.request("POST", "/jobs", {"task": "t", "payload": "x" * (MAX_BODY_BYTES - 100)})
    before = process.memory_info().rss
    yield process
    assert process.memory_info().rss < before + GROWTH
    faults = [line for line in server.log_lines() if line.get("status", 0) >= 500]
    assert not faults
    assert "Traceback" not in server.log_text()


def url(operation_name: str, **places: str) -> str:
    path = operation_name.split()[1]
    for place, value in PLACES.items():
        path = path.replace(place, places.get(place.strip("{}"), value))
    return path


def send(
    server: Server, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    """Send a request as it is written here; return status and body of the answer."""
    said = {"Host": "localhost", "Content-Type": "application/json", "Connection": "close"}
    if body or method != "GET":
        said["Content-Length"] = str(len(body))
    said |= headers
    head = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    request = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body
    return raw(server, request, says_goodbye=bool(SILENT & headers.keys()))


def raw(server: Server, data: bytes, says_goodbye: bool = True) -> tuple[int, bytes]:
    """Send bytes, and say that there will be no more; return status and body of the answer.

    Where there is no answer the status is 0.
    """
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        received = b""
        try:
            connection.sendall(data)
            if says_goodbye:
                connection.shutdown(socket.SHUT_WR)
        except OSError:  # it has closed already
            pass
        try:
            while more := connection.recv(65536):
                received += more
        except ConnectionError:
            pass
    head, _, body = received.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100 "):
        head, _, body = body.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


def is_ours(status: int, body: bytes) -> bool:
    """Tell whether an answer is one of ours: fine, or wrong and said so in JSON."""
    if status in (200, 201, 204, 304):
        return True
    return 400 <= status < 500 and {"code", "message"} <= json.loads(body).keys()


def places(body: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Find the places of all values in an example."""
    if before:
        yield before
    if isinstance(body, dict):
        for key, value in body.items():
            yield from places(value, (*before, key))
    elif isinstance(body, list) and body:
        yield from places(body[0], (*before, 0))


def with_value(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = body.copy()
    copy[place[0]] = with_value(body[place[0]], place[1:], value)
    return copy


def test_a_body_that_is_no_usable_json_is_refused(server: Server, process: psutil.Process) -> None:
    for name in TAKE_A_BODY:
        method = name.split()[0]
        for what, body in NOT_JSON.items():
            status, answer = send(server, method, url(name), body)

            assert status == 400, (name, what, status, answer[:200])
            assert json.loads(answer)["code"] == "HTTP400", (name, what)
        for content_type in ("text/plain", "multipart/form-data", "application/jsonp", ""):
            status, answer = send(
                server, method, url(name), b"{}", **{"Content-Type": content_type}
            )
            assert (status, json.loads(answer)["code"]) == (415, "HTTP415"), (name, content_type)
        status, answer = send(server, method, url(name), b" " * (MAX_BODY_BYTES + 1))
        assert (status, json.loads(answer)["code"]) == (413, "HTTP413"), name
        assert server.is_live()


def test_no_value_of_a_body_is_a_fault_of_ours(server: Server, process: psutil.Process) -> None:
    spec = server.request("GET", "/apispec.json").json
    for name in TAKE_A_BODY:
        seen = set()
        for example in filter(None, requests(spec, name)):
            for place in places(example):
                if place in seen:
                    continue
                seen.add(place)
                text = json.dumps(with_value(example, place, "here it goes"))
                for what, value in VALUES.items():
                    body = text.replace('"here it goes"', value).encode()

                    status, answer = send(server, name.split()[0], url(name), body)

                    assert is_ours(status, answer), (name, place, what, status, answer[:200])
        assert server.is_live()


def test_no_parameter_is_a_fault_of_ours(server: Server, process: psutil.Process) -> None:
    spec = server.request("GET", "/apispec.json").json
    for name in OPERATIONS:
        method = name.split()[0]
        body = b"" if method == "GET" else b"{}"
        described = [resolve(spec, it) for it in operation(spec, name).get("parameters", [])]
        asked = [f"{url(name)}?{it}" for it in QUERIES]
        for parameter in (it["name"] for it in described if it["in"] == "query"):
            asked += [f"{url(name)}?{parameter}={value}" for value in PARAMETERS]
            asked += [f"{url(name)}?{parameter}=1&{parameter}=2"]
        for parameter in (it["name"] for it in described if it["in"] == "path"):
            asked += [url(name, **{parameter: value}) for value in PARAMETERS]
        for target in asked:
            status, answer = send(server, method, target, body)

            assert is_ours(status, answer), (method, target[:200], status, answer[:200])
        assert server.is_live()


def test_no_header_is_a_fault_of_ours(server: Server, process: psutil.Process) -> None:
    for header, values in HEADERS.items():
        for name in OPERATIONS:
            method = name.split()[0]
            for value in values:
                body = b"" if method == "GET" else b"{}"
                status, answer = send(server, method, url(name), body, **{header: value})

                said = (name, header, value[:100], status, answer[:200])
                assert is_ours(status, answer) or (status == 0 and header in SILENT), said
        assert server.is_live()


def test_no_bytes_are_a_fault_of_ours(server: Server, process: psutil.Process) -> None:
    for what, data in RAW.items():
        for _ in range(3):
            status, answer = raw(server, data)

            assert status == 0 or is_ours(status, answer), (what, status, answer[:200])
            assert server.is_live(), what


def test_a_hundred_bodies_at_once_leave_the_api_alive(
    server: Server, process: psutil.Process
) -> None:
    head = b"POST /jobs/finish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    for connection in connections:
        connection.sendall(head + b'{"jobs": [' + b"[" * 500_000)

    assert server.is_live()

    for connection in connections:
        connection.close()
    wait_until(lambda: len(process.net_connections()) < 20)
