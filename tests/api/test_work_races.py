"""Work over HTTP while clients, tokens, processes and the database go away at the worst moment."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from rota.app import create_app, database, waiting, work
from rota.app.waiting import MOST_OF_ONE, MOST_QUEUES, UNDELIVERED
from rota.db.gateway import call
from tests.api.conftest import Server
from tests.api.test_slow_clients import Patient, many_files, patient  # noqa: F401
from tests.api.test_work import (
    answer_of,
    ask_to_claim,
    claim,
    connections,
    enqueue,
    held,
    is_blocked,
    is_quiet,
    looks_for_ends,
    sleepers,
)
from tests.pooler import pooler
from tests.waiting import wait_until

StartServer = Callable[..., Server]


def backends(conn: Connection, condition: str = "true") -> list[int]:
    """Return the processes that serve the API's connections."""
    rows = conn.execute(
        f"""
        select pid from pg_stat_activity
        where application_name = 'rota api' and datname = current_database() and {condition}
        """  # noqa: S608
    )
    return [pid for (pid,) in rows]


LISTENS = "pid in (select pid from pg_locks where locktype = 'advisory' and mode = 'ShareLock')"


@pytest.fixture
def two_principals(conn: Connection) -> Iterator[tuple[str, str]]:
    """Tokens of two, of whom the second cannot see the queues of the first."""
    tokens = []
    for name, pattern in (("race_a", "a.*"), ("race_b", "b.*")):
        conn.execute(f"create role {name}")
        conn.execute(f"grant rota_worker to {name}")
        call(conn, "wall", principal=name, queue_pattern=pattern)
        tokens.append(call(conn, "create_token", principal=name)[0]["token"])
    yield tokens[0], tokens[1]
    for name in ("race_a", "race_b"):
        conn.execute(f"drop owned by {name}; drop role {name}")


def test_who_waits_for_a_queue_that_it_cannot_see_keeps_no_job_from_its_owner(
    server: Server, conn: Connection, two_principals: tuple[str, str]
) -> None:
    owner, stranger = two_principals
    first = ask_to_claim(server, "a.q", token=stranger, worker="b.w")
    wait_until(lambda: sleepers(conn) == 1)
    second = ask_to_claim(server, "a.q", token=owner, worker="a.w")
    wait_until(lambda: is_quiet(conn) and len(connections(server)) == 2)
    began = time.monotonic()
    job_id = enqueue(conn, "a.q")

    status, body = answer_of(second)

    assert (status, body["jobs"][0]["id"]) == (200, job_id)
    assert time.monotonic() - began < 5
    first.close()


def test_a_token_that_is_revoked_while_its_claim_waits_gets_no_job(
    server: Server, conn: Connection, two_principals: tuple[str, str]
) -> None:
    owner, _ = two_principals
    waiting = ask_to_claim(server, "a.q", token=owner, worker="a.w")
    wait_until(lambda: sleepers(conn) == 1)
    call(conn, "revoke_token", token_id=1)
    # It is known for some seconds yet, as the documentation says; then it is looked up again.
    proof = {"Authorization": f"Bearer {owner}"}
    wait_until(lambda: server.request("GET", "/jobs/1", **proof).status == 401)

    enqueue(conn, "a.q")

    assert answer_of(waiting)[0] == 401
    assert conn.execute("select state, attempt from rota.jobs").fetchall() == [("SCHEDULED", 0)]


def test_of_what_a_client_that_hung_up_was_given_each_is_handed_back_by_itself(
    client: FlaskClient, conn: Connection
) -> None:
    """One whose lease is over already keeps back none of the others."""
    for _ in range(3):
        enqueue(conn)
    jobs = call(conn, "claim_next_job", max_jobs=3)
    conn.execute(
        "update rota.live_jobs set token = gen_random_uuid() where id = %s", [jobs[1]["id"]]
    )
    claimed = [json.dumps({"id": job["id"], "token": str(job["token"])}) for job in jobs]

    client.post(
        "/queues/default/claim", environ_overrides={UNDELIVERED: True, "rota.claimed": claimed}
    )

    rows = conn.execute("select error from rota.executions order by job_id").fetchall()
    gone = "the client that claimed it had gone"
    assert rows == [(gone,), (None,), (gone,)]


@pytest.mark.parametrize("wrong", [10**9, 2**70], ids=["no such job", "no id at all"])
def test_a_job_that_cannot_be_handed_back_keeps_back_none_of_the_others(
    client: FlaskClient, conn: Connection, wrong: int
) -> None:
    for _ in range(2):
        enqueue(conn)
    jobs = [(job["id"], str(job["token"])) for job in call(conn, "claim_next_job", max_jobs=2)]
    claimed = [
        json.dumps({"id": job_id, "token": token})
        for job_id, token in [(-wrong, jobs[0][1]), *jobs, (wrong, jobs[0][1])]
    ]

    answer = client.post(
        "/queues/default/claim", environ_overrides={UNDELIVERED: True, "rota.claimed": claimed}
    )

    assert answer.status_code == 204
    states = conn.execute("select state from rota.jobs").fetchall()
    assert states == [("SCHEDULED",)] * 2


def test_who_claims_under_a_name_that_it_cannot_have_is_not_shown_and_served_all_the_same(
    server: Server, conn: Connection, two_principals: tuple[str, str]
) -> None:
    owner, stranger = two_principals
    job_id = enqueue(conn, "a.q")
    call(conn, "enqueue_job", task="t", queue="b.q")
    for _ in range(2):  # the second is not announced
        answers = [
            server.request("POST", path, {"worker": "a.w"}, Authorization=f"Bearer {stranger}")
            for path in ("/queues/a.q/claim", "/queues/nobody.q/claim")
        ]
        assert [(answer.status, answer.body) for answer in answers] == [(204, b"")] * 2
    mine = server.request("POST", "/queues/b.q/claim", {}, Authorization=f"Bearer {stranger}")
    theirs = server.request(
        "POST", "/queues/a.q/claim", {"worker": "a.w"}, Authorization=f"Bearer {owner}"
    )

    assert mine.json["jobs"][0]["queue"] == "b.q"
    assert theirs.json["jobs"][0]["id"] == job_id
    assert conn.execute("select worker, queues from rota.workers").fetchall() == [("a.w", ["a.q"])]


def test_a_finish_whose_claim_cannot_be_made_is_not_done_by_half(
    server: Server, conn: Connection, connect: Callable[..., Connection]
) -> None:
    enqueue(conn)
    enqueue(conn)
    (job,) = claim(server, worker="first")
    body = {
        "token": job["token"],
        "result": 1,
        "claim_next": {"queues": ["default"], "worker": "w"},
    }

    wrong = server.request(
        "POST",
        f"{held(job)}/finish",
        body | {"claim_next": {"queues": ["default"], "worker": "v", "max_jobs": 0}},
    )
    after = server.request("GET", held(job)).json["state"]
    with connect().transaction() as holder:
        holder.connection.execute("lock table rota.workers")
        busy = server.request("POST", f"{held(job)}/finish", body)
    between = server.request("GET", held(job)).json["state"]
    done = server.request("POST", f"{held(job)}/finish", body)
    again = server.request("POST", f"{held(job)}/finish", body)

    assert (wrong.status, after) == (422, "RUNNING")
    assert (busy.status, between) == (503, "RUNNING")
    assert (done.json["state"], [it["id"] for it in done.json["claimed"]]) == ("COMPLETED", [2])
    assert (again.json["state"], again.json["claimed"]) == ("COMPLETED", [])


def test_a_finish_whose_answer_was_lost_is_answered_by_another_process(
    db: str, conn: Connection, start_server: StartServer
) -> None:
    one, other = start_server(db), start_server(db)
    enqueue(conn)
    (job,) = claim(one)
    body = {"token": job["token"], "result": {"n": 1}}
    text = b'{"token": "%s", "result": {"n": 1}}' % job["token"].encode()
    with socket.create_connection(("127.0.0.1", one.port)) as connection:
        connection.sendall(
            f"POST {held(job)}/finish HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode()
            + text
        )
    state = "select state from rota.jobs"
    wait_until(lambda: conn.execute(state).fetchone() == ("COMPLETED",))

    again = other.request("POST", f"{held(job)}/finish", body)
    differs = other.request("POST", f"{held(job)}/finish", body | {"result": 2})

    assert (again.status, again.json["state"]) == (200, "COMPLETED")
    assert (differs.status, differs.json["code"]) == (409, "RTC03")


def test_one_idempotency_key_in_two_processes_at_once_adds_one_job(
    db: str, conn: Connection, connect: Callable[..., Connection], start_server: StartServer
) -> None:
    servers = [start_server(db), start_server(db)]

    def post(number: int) -> Any:
        return servers[number % 2].request(
            "POST", "/jobs", {"task": "a"}, **{"Idempotency-Key": "k"}
        )

    with ThreadPoolExecutor(6) as pool:
        with connect().transaction() as holder:
            holder.connection.execute("lock table rota.live_jobs")
            calls = [pool.submit(post, number) for number in range(6)]
            wait_until(lambda: len(backends(conn, "wait_event_type = 'Lock'")) == 6)
        answers = [call.result() for call in calls]

    assert {(answer.status, answer.body) for answer in answers} == {(201, answers[0].body)}
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 5
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (1,)


def test_a_process_that_is_killed_in_the_midst_of_a_request_leaves_its_key_free(
    db: str, conn: Connection, connect: Callable[..., Connection], start_server: StartServer
) -> None:
    one, other = start_server(db), start_server(db)
    key = {"Idempotency-Key": "k"}
    with ThreadPoolExecutor(1) as pool:
        with connect().transaction() as holder:
            holder.connection.execute("lock table rota.live_jobs")
            lost = pool.submit(one.request, "POST", "/jobs", {"task": "a"}, **key)
            wait_until(lambda: is_blocked(conn))
            one.close()
            assert lost.exception() is not None
        wait_until(lambda: len(backends(conn, "state = 'active'")) == 0)
        again = other.request("POST", "/jobs", {"task": "a"}, **key)

    assert again.status == 201 and "Idempotency-Replayed" not in again.headers
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (1,)


def test_requests_that_wait_are_let_go_in_time_by_a_database_that_says_nothing(
    server: Server, conn: Connection
) -> None:
    enqueue(conn, "elsewhere")
    waiting = ask_to_claim(server)
    wait_until(lambda: len(backends(conn, LISTENS)) == 1)
    (frozen,) = backends(conn, LISTENS)
    os.kill(frozen, signal.SIGSTOP)
    try:
        short = ask_to_claim(server, "another", wait=2)  # for which it is to listen, too
        began = time.monotonic()
        assert answer_of(short) == (204, None)
        assert time.monotonic() - began < 12
        enqueue(conn)
        assert answer_of(waiting)[0] == 200
    finally:
        os.kill(frozen, signal.SIGCONT)


def test_requests_that_wait_for_an_end_cost_nothing_while_the_database_is_away(
    server: Server, conn: Connection, administrate: Callable[..., Any]
) -> None:
    job_id = enqueue(conn)
    (job,) = claim(server)
    process = psutil.Process(server.process.pid)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.request, "GET", f"/jobs/{job_id}?wait=30")
        wait_until(lambda: looks_for_ends(conn))
        name = conn.info.dbname
        administrate("alter database {} allow_connections false", name)
        try:
            conn.execute(
                """
                select pg_terminate_backend(pid, 10000) from pg_stat_activity
                where application_name = 'rota api' and datname = current_database()
                """
            )
            wait_until(lambda: "cannot hear of jobs" in server.log_text())
            began, used = time.monotonic(), sum(process.cpu_times()[:2])
            wait_until(lambda: server.log_text().count("cannot hear of jobs") >= 5)
            share = (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - began)
        finally:
            administrate("alter database {} allow_connections true", name)
        call(conn, "finish_job", job_id=job_id, token=job["token"])
        began = time.monotonic()

        assert waiting.result().json["state"] == "COMPLETED"
        assert time.monotonic() - began < 6
        assert share < 0.15


def test_a_process_with_many_connections_hears_of_jobs_as_well(
    server: Server,
    conn: Connection,
    many_files: None,  # noqa: F811
) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1100)]
    wait_until(lambda: len(connections(server)) == 1100)

    waiting = ask_to_claim(server)
    wait_until(lambda: sleepers(conn) == 1)
    enqueue(conn)

    assert answer_of(waiting)[0] == 200
    assert "goes on after an error" not in server.log_text()
    for connection in idle:
        connection.close()


def test_requests_wait_for_so_many_queues_at_a_time(server: Server, conn: Connection) -> None:
    waiting = []
    for number in range(MOST_QUEUES // 100):
        names = [f"q-{number}-{place}" for place in range(100)]
        waiting.append(ask_to_claim(server, queues=names))
    wait_until(lambda: len(connections(server)) == len(waiting) and sleepers(conn) == 1)
    more = {"queues": ["one-more"], "wait_seconds": 20}
    refused = wait_until(
        lambda: (
            answer
            if (answer := server.request("POST", "/jobs/claim", more)).status == 503
            else None
        ),
        60,
    )
    at_once = server.request("POST", "/jobs/claim", {"queues": ["one-more"]})
    known = ask_to_claim(server, "q-7-7")
    enqueue(conn, "q-7-7")
    enqueue(conn, "q-7-7")

    assert "too many queues" in refused.json["message"] and refused.headers["Retry-After"] == "1"
    assert at_once.status == 204
    assert answer_of(known)[0] == 200
    for connection in waiting:
        connection.close()


def test_the_made_up_names_of_one_principal_leave_room_for_its_neighbours(
    server: Server, conn: Connection, two_principals: tuple[str, str]
) -> None:
    stranger, owner = two_principals
    proof = {"Authorization": f"Bearer {stranger}"}
    names = [[f"a.{number}-{place}" for place in range(100)] for number in range(10)]
    greedy = [ask_to_claim(server, queues=some, token=stranger) for some in names]
    wait_until(lambda: sleepers(conn) == 1)
    more = {"queues": [f"a.{place}" for place in range(MOST_OF_ONE % 100 + 1)], "wait_seconds": 9}
    refused = wait_until(
        lambda: (
            answer
            if (answer := server.request("POST", "/jobs/claim", more, **proof)).status == 503
            else None
        )
    )
    lets_wait = [ask_to_claim(server, f"b.{number}", token=owner, wait=1) for number in range(5)]

    assert "too many queues" in refused.json["message"]
    assert [answer_of(connection)[0] for connection in lets_wait] == [204] * 5
    for connection in greedy:
        connection.close()


def test_who_was_called_and_hung_up_does_not_pass_for_one_who_looks(
    patient: Callable[..., Patient],  # noqa: F811
    conn: Connection,
    connect: Callable[..., Connection],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 60.0)
    monkeypatch.setattr(work, "ANNOUNCED_EVERY", 0.0)  # each look does, and there it is held up
    one = patient()
    clients = one._server.connections
    with connect().transaction() as holder:
        gone = ask_to_claim(one)  # type: ignore[arg-type]
        wait_until(lambda: sleepers(conn) == 1 and is_quiet(conn))
        stays = ask_to_claim(one, wait=10)  # type: ignore[arg-type]
        wait_until(lambda: len(clients) == 2 and is_quiet(conn))
        holder.connection.execute("lock table rota.workers")
        conn.execute("select pg_notify('rota_jobs', 'default')")
        wait_until(lambda: is_blocked(conn))
        gone.close()
        wait_until(lambda: len(clients) == 1)
    wait_until(lambda: not one._server.waiting._looking, 5)

    job_id = enqueue(conn)

    status, body = answer_of(stays)
    assert status == 200 and body["jobs"][0]["id"] == job_id


class Relay:
    """A way to the database on which connections fall silent once they are there."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = [self._listener]
        self.port = self._listener.getsockname()[1]
        self.falls_silent = False
        self._run(self._accept)

    def _run(self, work: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._path)
                self._open += [client, server]
                self._run(self._pass_on, client, server, False)
                self._run(self._pass_on, server, client, self.falls_silent)

    def _pass_on(self, one: socket.socket, other: socket.socket, falls_silent: bool) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
                if falls_silent and data.endswith(b"Z\0\0\0\5I"):  # ready for its first query
                    return
            other.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in self._open:
            one.close()


def test_requests_that_wait_are_let_go_by_a_database_that_falls_silent_as_it_is_reached(
    db: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LONGEST_SET_UP", 1.0)
    folder = conn.info.host
    if not folder.startswith("/"):
        pytest.skip("the server is not reached by a socket of this machine")
    relay = Relay(f"{folder}/.s.PGSQL.{conn.info.port}")
    url = make_conninfo(
        db, host="127.0.0.1", port=relay.port, sslmode="disable", gssencmode="disable"
    )
    app = create_app(url)
    # Else that takes the connection which answers the request.
    monkeypatch.setattr(app.extensions["upkeep"], "claimed_by", lambda principal: None)
    one = Patient(app.test_client())
    try:
        assert one.request("GET", "/jobs").status == 200
        relay.falls_silent = True
        waits = ask_to_claim(one, wait=2)  # type: ignore[arg-type]
        waits.settimeout(12)
        assert answer_of(waits) == (204, None)
        relay.falls_silent = False
        again = ask_to_claim(one)  # type: ignore[arg-type]
        wait_until(lambda: sleepers(conn) == 1)
        enqueue(conn)
        assert answer_of(again)[0] == 200
    finally:
        one.close()
        relay.close()
        app.extensions["database"].close()


def test_behind_a_pooler_no_role_stays_on_a_session_that_is_shared(
    db: str,
    conn: Connection,
    connect: Callable[..., Connection],
    two_principals: tuple[str, str],
    start_server: StartServer,
    tmp_path: Path,
) -> None:
    owner, _ = two_principals
    option = "with inherit false" if conn.info.server_version >= 160000 else ""
    conn.execute("create role race_api login noinherit in role rota_api")
    conn.execute(f"grant race_a to race_api {option}; grant rota_reader to race_a")
    try:
        with pooler(make_conninfo(db, user="race_api"), tmp_path) as url:
            server = start_server(url)
            enqueue(conn, "a.elsewhere")
            waits = ask_to_claim(server, "a.q", wait=1.5, token=owner, worker="a.w")
            in_vain = answer_of(waits)[0]
            proof = {"Authorization": f"Bearer {owner}"}
            seen = server.request("GET", "/jobs/1?wait=1", **proof)  # looks for its end, too
            with psycopg.connect(url) as one, psycopg.connect(url) as other:
                users = [it.execute("select current_user").fetchone() for it in (one, other)]
            server.close()
    finally:
        conn.execute("drop role race_api")

    assert (in_vain, seen.json["state"]) == (204, "SCHEDULED")
    assert users == [("race_api",)] * 2
    assert "cannot hear of jobs" not in server.log_text()


def test_threads_that_take_the_last_idle_connection_at_once_get_one_each(
    client: FlaskClient,
) -> None:
    database = client.application.extensions["database"]

    class Gone(type(database._idle)):  # type: ignore[misc]
        """As another thread leaves it, between a look and a grasp."""

        def __bool__(self) -> bool:
            return True

    database._idle = Gone()
    with database.transaction() as conn:
        assert conn.execute("select 1").fetchone() == (1,)


def test_many_claims_and_finishes_of_many_processes_do_each_job_once(
    db: str, conn: Connection, start_server: StartServer
) -> None:
    server = start_server(db, arguments=["--processes", "2"])
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}] * 200))

    def work(number: int) -> list[int]:
        done = []
        jobs = claim(server, worker=f"w{number}", max_jobs=2)
        while jobs:
            done += [job["id"] for job in jobs]
            pairs = [{"job_id": job["id"], "token": job["token"]} for job in jobs]
            body = {"jobs": pairs, "claim_next": {"queues": ["default"], "max_jobs": 2}}
            answer = server.request("POST", "/jobs/finish", body)
            assert {job["outcome"] for job in answer.json["jobs"]} == {"COMPLETED"}
            jobs = answer.json["claimed"]
        return done

    with ThreadPoolExecutor(8) as pool:
        done = [job_id for ids in pool.map(work, range(8)) for job_id in ids]

    assert sorted(done) == list(range(1, 201))
    assert conn.execute("select count(*) from rota.executions").fetchone() == (200,)
