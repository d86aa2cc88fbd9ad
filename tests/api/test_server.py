"""The server as a process: what a client sees when things stop and start around it."""

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

from psycopg import Connection

from rota.db.embedded import Cluster
from tests.api.conftest import Server

StartServer = Callable[..., Server]


def is_blocked(conn: Connection) -> bool:
    """Tell whether a connection of the API waits for a lock."""
    return conn.execute(
        """
        select exists (
            select from pg_stat_activity
            where application_name = 'rota api' and wait_event_type = 'Lock'
        )
        """
    ).fetchone() == (True,)


def test_requests_fail_while_the_database_is_away_and_then_work_again(
    own_cluster: Cluster, start_server: StartServer
) -> None:
    server = start_server(own_cluster.url())
    assert server.request("POST", "/jobs", {"task": "before"}).status == 201

    own_cluster.kill()
    away = [
        server.request("POST", "/jobs", {"task": "away"}),
        server.request("GET", "/jobs"),
        server.request("GET", "/health/ready"),
    ]
    alive = server.request("GET", "/health/live")
    own_cluster.start()
    ready = server.request("GET", "/health/ready")
    again = server.request("POST", "/jobs", {"task": "after"})

    assert [answer.status for answer in away] == [503] * 3
    assert [answer.headers["Retry-After"] for answer in away] == ["1"] * 3
    assert all(set(answer.json) == {"code", "message", "id"} for answer in away)
    assert (alive.status, ready.status, again.status) == (200, 200, 201)
    tasks = [job["task"] for job in server.request("GET", "/jobs").json["jobs"]]
    assert tasks == ["after", "before"]


def test_server_starts_without_its_database(
    own_cluster: Cluster, start_server: StartServer
) -> None:
    url = own_cluster.url()
    own_cluster.stop()

    server = start_server(url)
    waiting = server.request("GET", "/health/ready")
    own_cluster.start()

    assert waiting.status == 503
    assert server.request("GET", "/health/ready").status == 200


def test_terminated_connections_are_replaced(server: Server, conn: Connection) -> None:
    server.request("GET", "/jobs")
    ended = conn.execute(
        """
        select pg_terminate_backend(pid, 10000) from pg_stat_activity
        where application_name = 'rota api' and datname = current_database()
        """
    ).fetchall()

    answers = [server.request("POST", "/jobs", {"task": "a"}) for _ in range(3)]

    assert ended
    assert [answer.status for answer in answers] == [201] * 3


def test_sigterm_lets_requests_end(
    server: Server, conn: Connection, connect: Callable[..., Connection]
) -> None:
    answers: list[Any] = []
    client = threading.Thread(
        target=lambda: answers.append(server.request("POST", "/jobs", {"task": "a"}))
    )
    with connect().transaction() as blocked:
        blocked.connection.execute("lock table rota.live_jobs")
        client.start()
        server.wait_until(lambda: is_blocked(conn))
        server.process.terminate()
        server.wait_until(lambda: refuses_connections(server.port))
    client.join()

    assert server.process.wait(timeout=10) == 0
    assert [answer.status for answer in answers] == [201]
    assert conn.execute("select task from rota.jobs").fetchall() == [("a",)]
    assert server.log_lines()[-1]["message"] == "stopped"


def refuses_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_slow_clients_hold_up_nobody(server: Server) -> None:
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    for connection in slow:
        connection.sendall(b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")

    answer = server.request("POST", "/jobs", {"task": "a"})

    assert answer.status == 201
    for connection in slow:
        connection.close()


def test_large_uploads_are_cut_off(server: Server) -> None:
    refused = server.request("POST", "/jobs", {"task": "a", "payload": "x" * 2 * 1024 * 1024})
    with socket.create_connection(("127.0.0.1", server.port)) as huge:
        huge.sendall(b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{")
        cut_off = huge.recv(100)

    assert (refused.status, refused.json["code"]) == (413, "HTTP413")
    assert b" 413 " in cut_off


def test_log_is_json_lines_without_payloads(server: Server, conn: Connection) -> None:
    server.request("POST", "/jobs", {"task": "a", "payload": "canary-payload"})
    server.request("POST", "/jobs", {"task": "a", "priority": 1000, "payload": "canary-payload"})
    server.request("GET", "/nowhere/%0a%1b%5b31m%7f%C2%9Bforged")
    conn.execute("alter function rota.cancel_job rename to elsewhere")
    failed = server.request("POST", "/jobs/1/cancel", {"reason": "canary-reason"})
    assert server.stop() == 0

    lines = server.log_lines()
    requests = [line for line in lines if line["message"] == "request"]
    errors = [line for line in lines if line["level"] == "ERROR"]

    assert "canary" not in server.log_text()
    assert set(server.log_text()) <= {"\n", *map(chr, range(32, 127))}
    assert [
        (line["method"], line["path"], line["status"])
        for line in requests
        if line["path"] != "/health/live"
    ] == [
        ("POST", "/jobs", 201),
        ("POST", "/jobs", 422),
        ("GET", "/nowhere/\n\x1b[31m\x7f\x9bforged", 404),
        ("POST", "/jobs/1/cancel", 500),
    ]
    assert [line["id"] for line in errors] == [failed.json["id"]]


def test_server_refuses_another_version(
    db: str, conn: Connection, start_server: StartServer
) -> None:
    conn.execute("create or replace function rota.version() returns text language sql return 'abc'")
    conn.execute("delete from rota.versions")

    server = start_server(db, wait=False)

    assert server.process.wait(timeout=30) == 1
    assert "rota deploy" in server.log_lines()[-1]["message"]


def test_server_names_a_port_that_is_taken(db: str, start_server: StartServer) -> None:
    first = start_server(db)

    second = start_server(db, wait=False, port=first.port)

    assert second.process.wait(timeout=30) == 1
    assert str(first.port) in second.log_lines()[-1]["message"]


def test_server_does_not_repeat_a_bad_url(start_server: StartServer) -> None:
    server = start_server("host=localhost password=canary user", wait=False)

    assert server.process.wait(timeout=30) == 1
    [line] = server.log_lines()
    assert "DATABASE_URL" in line["message"]
    assert "canary" not in json.dumps(line)


def test_requests_run_side_by_side(server: Server, conn: Connection) -> None:
    statuses: list[int] = []

    def post() -> None:
        for _ in range(25):
            statuses.append(server.request("POST", "/jobs", {"task": "a"}).status)

    clients = [threading.Thread(target=post) for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()

    assert statuses == [201] * 200
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (200,)
