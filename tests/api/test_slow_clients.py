"""What a slow client, a row lock or a database that says nothing may hold up, and for how long."""

import contextlib
import json
import os
import resource
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg import Connection

from rota.app import database, server
from tests.api.conftest import Answer, Server, free_port
from tests.waiting import wait_until

BOUND = 2.0  # seconds, within which others get their answers; far less unless the machine is busy
LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Patient:
    """The server in this process, on a port of its own, with the patience that a test wants."""

    def __init__(self, client: FlaskClient) -> None:
        self.port = free_port()
        self._stop = threading.Event()
        app = client.application
        self._server = server.Server(app, server.listen("127.0.0.1", str(self.port)))
        self._thread = threading.Thread(
            target=self._server.run,
            args=(self._stop.is_set, app.extensions["database"].cut_overdue),
        )
        self._thread.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def request(self, method: str, path: str, body: Any = None) -> Answer:
        return Server.request(self, method, path, body)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._server.stop_listening()


@pytest.fixture
def patient(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Start the server with other deadlines than it has."""
    running = []

    def start(**patience: int) -> Patient:
        monkeypatch.setattr(server, "PATIENCE", server.PATIENCE | patience)
        running.append(Patient(client))
        return running[-1]

    yield start
    for one in running:
        one.close()


def is_live(connection: socket.socket) -> bool:
    """Ask over a connection whether the server lives."""
    connection.sendall(LIVE)
    answer = b""
    while not answer.endswith(b'"alive"}\n'):
        data = connection.recv(4096)
        if not data:
            return False
        answer += data
    return True


def is_closed(connection: socket.socket) -> bool:
    """Tell whether the other side has closed, having said nothing."""
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def times(ask: Callable[[], Any], count: int = 10) -> list[float]:
    """Return how long each of some calls takes."""
    taken = []
    for _ in range(count):
        began = time.monotonic()
        ask()
        taken.append(time.monotonic() - began)
    return taken


@pytest.fixture
def many_files() -> Iterator[None]:
    """Allow this process as many sockets as the system lets it have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1200:
        pytest.skip("too few open files are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_hundreds_of_idle_and_dripping_clients_hold_up_nobody(
    server: Server, many_files: None
) -> None:
    address = ("127.0.0.1", server.port)
    idle = [socket.create_connection(address) for _ in range(600)]
    dripping = [socket.create_connection(address) for _ in range(100)]
    head = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    for number, connection in enumerate(dripping):
        connection.sendall(head[:10] if number % 2 else head)
    done = threading.Event()

    def drip() -> None:
        while not done.wait(0.3):
            for connection in dripping:
                with contextlib.suppress(OSError):  # it was closed
                    connection.sendall(b"x")

    dripper = threading.Thread(target=drip)
    dripper.start()
    live = times(lambda: server.request("GET", "/health/live"))
    statuses: list[int] = []
    posts = times(lambda: statuses.append(server.request("POST", "/jobs", {"task": "a"}).status))
    done.set()
    dripper.join()
    for connection in idle + dripping:
        connection.close()

    assert max(live) < BOUND and max(posts) < BOUND, (live, posts)
    assert statuses == [201] * 10


def test_a_client_that_keeps_its_connection_stays_when_idle_ones_give_way(
    server: Server, many_files: None
) -> None:
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, timeout=30) as kept:
        for _ in range(3):
            idle = [socket.create_connection(address) for _ in range(250)]
            assert is_live(kept)
            for connection in idle:
                connection.sendall(b"G")


@pytest.mark.parametrize("sent", [b"", b"GET /", LIVE[:-2]], ids=["nothing", "a little", "most"])
def test_a_head_must_come_in_time_however_it_drips(
    patient: Callable[..., Patient], sent: bytes
) -> None:
    one = patient(head=1)
    with one.connect() as connection:
        connection.sendall(sent)
        began = time.monotonic()

        def closed() -> bool:
            try:
                connection.sendall(b"x" if sent else b"")
            except OSError:
                return True
            return is_closed(connection)

        wait_until(closed)
        assert 0.9 < time.monotonic() - began < 1 + BOUND + 1


def test_a_body_must_come_in_time_however_it_drips(patient: Callable[..., Patient]) -> None:
    one = patient(body=1)
    with one.connect() as connection:
        connection.sendall(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n")

        def closed() -> bool:
            try:
                connection.sendall(b"x")
            except OSError:
                return True
            return is_closed(connection)

        wait_until(closed, 10)
    assert one.request("GET", "/jobs").json["jobs"] == []


def test_an_idle_connection_is_closed_and_one_in_use_is_not(
    patient: Callable[..., Patient],
) -> None:
    one = patient(idle=2)
    with one.connect() as busy, one.connect() as idle:
        assert is_live(idle)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert is_live(busy)
            time.sleep(0.2)

        assert is_closed(idle)


def test_answers_that_nobody_takes_hold_no_thread_and_end(
    patient: Callable[..., Patient], conn: Connection
) -> None:
    one = patient(answer=2)
    one.request("POST", "/jobs", {"task": "a"})
    conn.execute("update rota.live_jobs set payload = to_jsonb(repeat('x', 20000000))")
    takers = [one.connect() for _ in range(12)]
    for taker in takers:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        taker.sendall(b"GET /jobs/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert one.request("GET", "/queues").status == 200
    wait_until(lambda: not one._server.is_busy())
    for taker in takers:
        taker.close()


def test_bodies_that_come_at_once_have_a_bound_together(
    patient: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ALL_UPLOADS", 3_000_000)
    one = patient()
    senders = [one.connect() for _ in range(8)]
    for sender in senders:
        sender.sendall(
            b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\n"
            + b" " * 900_000
        )

    wait_until(lambda: sum(map(is_closed, senders)) >= 5)

    assert sum(map(is_closed, senders)) == 5
    for sender in senders:
        sender.close()


def test_a_locked_row_holds_up_only_those_who_want_it(
    server: Server, connect: Callable[..., Connection]
) -> None:
    server.request("POST", "/jobs", {"task": "a"})
    with ThreadPoolExecutor(30) as pool, connect().transaction() as holder:
        holder.connection.execute("select from rota.live_jobs where id = 1 for update")
        waiting = [pool.submit(server.request, "POST", "/jobs/1/cancel") for _ in range(30)]
        server.wait_until(lambda: is_blocked(connect()))
        taken = [
            *times(lambda: server.request("POST", "/jobs", {"task": "b"})),
            *times(lambda: server.request("GET", "/jobs")),
            *times(lambda: server.request("GET", "/health/ready"), 3),
            *times(lambda: server.request("GET", "/health/live"), 3),
        ]
        began = time.monotonic()
        answers = [call.result(60) for call in waiting]
        all_told = time.monotonic() - began

    assert max(taken) < BOUND, taken
    assert {answer.status for answer in answers} == {503}
    messages = {answer.json["message"] for answer in answers}
    assert "another transaction holds what this request needs; try again" in messages
    assert all_told < 5 + 3 + 2 * BOUND
    assert all(answer.headers["Retry-After"] == "1" for answer in answers)


def is_blocked(conn: Connection) -> bool:
    """Tell whether as many connections of the API wait for a lock as are let."""
    return conn.execute(
        """
        select count(*) >= 6 from pg_stat_activity
        where application_name = 'rota api' and wait_event_type = 'Lock'
            and datname = current_database()
        """
    ).fetchone() == (True,)


def test_a_request_that_gets_no_thread_is_told_so_in_time(
    server: Server, connect: Callable[..., Connection]
) -> None:
    jobs = [{"task": "a"}] * 40
    server.request("POST", "/jobs/bulk", {"jobs": jobs})
    with ThreadPoolExecutor(40) as pool, connect().transaction() as holder:
        holder.connection.execute("select from rota.live_jobs for update")
        began = time.monotonic()
        calls = [
            pool.submit(server.request, "POST", f"/jobs/{number}/cancel") for number in range(1, 41)
        ]
        answers = [call.result(60) for call in calls]
        taken = time.monotonic() - began

    messages = {answer.json["message"] for answer in answers}
    assert messages == {
        "another transaction holds what this request needs; try again",
        "too many requests are ahead of this one; try again",
    }
    assert taken < 5 + 3 + 2 * BOUND
    assert server.request("POST", "/jobs/1/cancel").status == 200


def backends(conn: Connection, waiting: bool = False) -> list[int]:
    """Return the processes that serve the API's connections, or those that wait for a lock."""
    rows = conn.execute(
        """
        select pid from pg_stat_activity
        where application_name = 'rota api' and datname = current_database()
            and (wait_event_type = 'Lock' or not %s)
        """,
        [waiting],
    )
    return [pid for (pid,) in rows]


def test_a_connection_that_says_nothing_is_replaced(
    patient: Callable[..., Patient], conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LONGEST_TRANSACTION", 1.0)
    one = patient()
    one.request("GET", "/jobs")
    [pid] = backends(conn)
    os.kill(pid, signal.SIGSTOP)
    try:
        taken = times(lambda: one.request("GET", "/jobs"), 3)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert max(taken) < 2 + BOUND


def test_a_database_that_stops_speaking_is_given_up(
    patient: Callable[..., Patient],
    conn: Connection,
    connect: Callable[..., Connection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "LONGEST_TRANSACTION", 1.0)
    one = patient()
    one.request("POST", "/jobs", {"task": "a"})
    with ThreadPoolExecutor(1) as pool, connect().transaction() as holder:
        holder.connection.execute("select from rota.live_jobs for update")
        call = pool.submit(one.request, "POST", "/jobs/1/cancel")
        [pid] = wait_until(lambda: backends(conn, waiting=True))
        os.kill(pid, signal.SIGSTOP)
        try:
            answer = call.result(1 + 2 * BOUND)
        finally:
            os.kill(pid, signal.SIGCONT)

    assert (answer.status, answer.json["message"]) == (503, "the database is not available")
    assert one.request("POST", "/jobs/1/cancel").status == 200


def test_few_open_files_mean_fewer_places_and_no_standstill(
    db: str, start_server: Callable[..., Server]
) -> None:
    server = start_server(db)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (60, 60))
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(150)]

    taken = times(lambda: server.request("GET", "/health/live"), 3)

    assert max(taken) < BOUND
    for connection in idle:
        connection.close()
    assert json.loads(urllib.request.urlopen(f"{server.url}/health/live").read())
