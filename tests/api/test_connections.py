"""What a client may do with one connection: more than one request, less than one, and leave."""

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from psycopg import Connection

from tests.api.conftest import Server
from tests.waiting import wait_until

LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
NOWHERE = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLAIM = json.dumps({"worker": "w", "wait_seconds": 30}).encode()
WAITS = (
    b"POST /queues/default/claim HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(CLAIM) + CLAIM
)


@pytest.fixture
def connect_to(server: Server) -> Any:
    """Open connections to the server; all are closed with the test."""
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


def all_of(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


def statuses(received: bytes) -> list[int]:
    """Return the statuses of the answers in what was received."""
    return [int(part[:4]) for part in received.split(b"HTTP/1.1")[1:]]


def waiting_claims(conn: Connection) -> int:
    row = conn.execute(
        "select count(*) from pg_locks where locktype = 'advisory' and granted and database ="
        " (select oid from pg_database where datname = current_database())"
    ).fetchone()
    assert row
    return row[0]


def test_requests_that_come_at_once_are_answered_in_order(
    connect_to: Callable[[], socket.socket],
) -> None:
    connection = connect_to()

    connection.sendall(
        (LIVE + NOWHERE) * 20 + LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    )

    assert statuses(all_of(connection)) == [200, 404] * 20 + [200]


def test_what_is_no_request_is_refused_after_those_before_it_are_answered(
    connect_to: Callable[[], socket.socket],
) -> None:
    connection = connect_to()

    connection.sendall(LIVE + NOWHERE + b"nonsense\r\n\r\n" + LIVE)

    assert statuses(all_of(connection)) == [200, 404, 400]


def test_a_body_that_goes_wrong_is_refused_after_what_came_before_it(
    connect_to: Callable[[], socket.socket],
) -> None:
    connection = connect_to()
    chunked = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"

    connection.sendall(LIVE + chunked + LIVE)

    assert statuses(all_of(connection)) == [200, 400]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_who_sends_too_much_hears_so(connect_to: Callable[[], socket.socket], framing: str) -> None:
    connection = connect_to()
    head = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    if framing == "length":
        connection.sendall(head + b"Content-Length: 6000000\r\n\r\n")
    else:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n5b8d80\r\n")
    for _ in range(60):
        connection.sendall(b"x" * 100_000)
        time.sleep(0.01)  # the answer is there before the body is

    received = all_of(connection)
    assert statuses(received) == [413] and b'"HTTP413"' in received


def test_a_client_that_may_go_on_is_told_so_and_one_that_may_not_is_refused_at_once(
    connect_to: Callable[[], socket.socket],
) -> None:
    head = (
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\n"
    )
    good, bad = connect_to(), connect_to()
    good.sendall(head + b"Content-Length: 12\r\n\r\n")
    bad.sendall(head + b"Content-Length: 6000000\r\n\r\n")

    assert good.recv(100).startswith(b"HTTP/1.1 100 ")
    good.sendall(b'{"task":"a"}')
    assert good.recv(100).startswith(b"HTTP/1.1 201 ")
    assert statuses(all_of(bad)) == [413]


def test_who_asks_for_another_protocol_is_answered_in_this_one(
    connect_to: Callable[[], socket.socket],
) -> None:
    connection = connect_to()
    upgrade = (
        b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n"
    )

    connection.sendall(LIVE.replace(b"\r\n\r\n", upgrade) + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

    assert statuses(all_of(connection)) == [200]


def test_requests_without_end_are_not_read_before_their_turn(
    server: Server, conn: Connection, connect_to: Callable[[], socket.socket]
) -> None:
    connection = connect_to()
    connection.sendall(WAITS)
    wait_until(lambda: waiting_claims(conn) > 0)
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    connection.settimeout(2)
    with pytest.raises(TimeoutError):
        for _ in range(2000):
            connection.sendall(LIVE * 500)

    assert process.memory_info().rss - before < 100_000_000
    assert server.is_live()


def test_answers_that_nobody_reads_stop_the_reading_of_requests(
    server: Server, connect_to: Callable[[], socket.socket]
) -> None:
    connection = connect_to()
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    connection.settimeout(3)
    with pytest.raises(OSError):
        for _ in range(4000):
            connection.sendall(b"GET /apispec.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)

    assert process.memory_info().rss - before < 150_000_000
    assert server.is_live()
