"""A worker over HTTP: claims that wait, fences, and claims whose clients are gone."""

import http.client
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.app.waiting import QUICK_LOOKS
from rota.db.gateway import call
from tests.api.conftest import Server
from tests.waiting import wait_until

StartServer = Callable[..., Server]


def enqueue(conn: Connection, queue: str = "default", **arguments: Any) -> int:
    return call(conn, "enqueue_job", **{"task": "t", "queue": queue, **arguments})[0]["job_id"]


def claim(server: Server, queue: str = "default", **body: Any) -> Any:
    """Claim over HTTP, and return the jobs; none where the answer is 204."""
    answer = server.request("POST", f"/queues/{queue}/claim", body)
    assert answer.status in (200, 204), answer.body
    return answer.json["jobs"] if answer.status == 200 else []


def held(job: dict[str, Any]) -> str:
    return f"/jobs/{job['id']}"


def sleepers(conn: Connection) -> int:
    """Return how many sessions say by a lock that they wait to be notified."""
    row = conn.execute(
        """
        select count(distinct l.pid) from pg_locks as l
        where l.locktype = 'advisory' and l.mode = 'ShareLock' and l.granted
            and l.database = (select oid from pg_database where datname = current_database())
        """
    ).fetchone()
    assert row
    return row[0]


def api_sessions(conn: Connection) -> int:
    row = conn.execute(
        """
        select count(*) from pg_stat_activity
        where application_name = 'rota api' and datname = current_database()
        """
    ).fetchone()
    assert row
    return row[0]


def ask_to_claim(
    server: Server,
    queue: str = "default",
    wait: float = 30,
    worker: str = "w",
    token: str | None = None,
    **more: Any,
) -> socket.socket:
    """Send a claim that waits, and leave the answer to whoever reads it."""
    body = json.dumps({"worker": worker, "wait_seconds": wait, **more}).encode()
    path = "/jobs/claim" if "queues" in more else f"/queues/{queue}/claim"
    proof = f"Authorization: Bearer {token}\r\n" if token else ""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{proof}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return connection


def answer_of(connection: socket.socket) -> tuple[int, Any]:
    """Return status and body of the answer, once it is there."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    body = answer.read()
    return answer.status, json.loads(body) if body else None


def is_quiet(conn: Connection) -> bool:
    """Tell whether the API has asked the database nothing for longer than between quick looks."""
    longest = max(b - a for a, b in itertools.pairwise(QUICK_LOOKS))
    return conn.execute(
        """
        select bool_and(state = 'idle' and state_change < clock_timestamp() - %s * interval '1 s')
        from pg_stat_activity
        where application_name = 'rota api' and datname = current_database()
        """,
        [1.5 * longest],
    ).fetchone() == (True,)


def test_a_job_is_claimed_kept_and_finished(server: Server, conn: Connection) -> None:
    enqueue(conn, payload=Jsonb({"n": 1}), timeout="90 seconds")

    (job,) = claim(server, worker="w", lease_seconds=60)
    lease = server.request(
        "POST",
        f"{held(job)}/heartbeat",
        {"token": job["token"], "lease_seconds": 600, "progress": {"done": 1}},
    )
    done = server.request(
        "POST", f"{held(job)}/finish", {"token": job["token"], "result": {"sum": 3}}
    )

    assert (job["payload"], job["timeout_seconds"], job["attempt"]) == ({"n": 1}, 90.0, 1)
    assert (
        lease.json["cancel_requested"] is False and lease.json["lease_until"] > job["lease_until"]
    )
    assert done.json == {"job_id": job["id"], "state": "COMPLETED", "run_at": None}
    shown = server.request("GET", held(job)).json
    assert (shown["state"], shown["result"], shown["progress"]) == ("COMPLETED", {"sum": 3}, {"done": 1})  # noqa: E501  # fmt: skip


def test_headers_come_with_the_job_and_those_of_the_request_are_not_taken(server: Server) -> None:
    traced = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    bodies = [{"task": "t", "headers": {"tenant": "acme"}}, {"task": "t"}]

    for body in bodies:
        assert server.request("POST", "/jobs", body, **traced).status == 201
    made = server.request("POST", "/jobs/bulk", {"jobs": bodies}, **traced)
    assert made.status == 201, made.body

    jobs = claim(server, max_jobs=4)
    assert [job["headers"] for job in jobs] == [{"tenant": "acme"}, None] * 2


def test_a_repeated_finish_is_answered_as_the_first_and_another_is_a_conflict(
    server: Server, conn: Connection
) -> None:
    enqueue(conn)
    (job,) = claim(server)

    def finish(**body: Any) -> Any:
        return server.request("POST", f"{held(job)}/finish", {"token": job["token"], **body})

    first, again, other = finish(result=1), finish(result=1), finish(result=2)
    late = server.request("POST", f"{held(job)}/heartbeat", {"token": job["token"]})

    assert (first.status, first.json) == (again.status, again.json)
    assert (other.status, other.json["code"]) == (409, "RTC03")
    assert (late.status, late.json["code"]) == (409, "RTC02")


def test_two_that_finish_at_once_end_a_job_once(server: Server, conn: Connection) -> None:
    enqueue(conn)
    (job,) = claim(server)
    body = {"token": job["token"], "result": 1}

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(server.request, "POST", f"{held(job)}/finish", body) for _ in range(8)]
        answers = [call.result() for call in calls]

    assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
    assert conn.execute("select count(*) from rota.executions").fetchone() == (1,)


def test_a_token_of_another_lease_changes_nothing(server: Server, conn: Connection) -> None:
    enqueue(conn)
    (job,) = claim(server)
    wrong = {"token": "3f333df6-90a4-4fda-8dd3-9485d27cee36"}

    for what in ("finish", "heartbeat", "release"):
        answer = server.request("POST", f"{held(job)}/{what}", wrong)
        assert (answer.status, answer.json["code"]) == (409, "RTC02"), what
        nobody = server.request("POST", f"/jobs/99/{what}", wrong)
        assert (nobody.status, nobody.json["code"]) == (409, "RTC02"), what
        malformed = server.request("POST", f"{held(job)}/{what}", {"token": "x"})
        assert (malformed.status, malformed.json["code"]) == (422, "RTV01"), what
    assert server.request("GET", held(job)).json["state"] == "RUNNING"


def test_a_release_gives_the_attempt_back(server: Server, conn: Connection) -> None:
    enqueue(conn)
    (job,) = claim(server)

    released = server.request(
        "POST", f"{held(job)}/release", {"token": job["token"], "reason": "no time"}
    )

    assert released.json["state"] == "SCHEDULED"
    (again,) = claim(server)
    assert again["attempt"] == 1 and again["token"] != job["token"]


def test_a_failure_is_retried_as_it_says(server: Server, conn: Connection) -> None:
    enqueue(conn)
    enqueue(conn)
    first, second = claim(server, max_jobs=2)

    soon = server.request(
        "POST",
        f"{held(first)}/finish",
        {"token": first["token"], "error": "x", "retry_in_seconds": 0},
    )
    never = server.request(
        "POST", f"{held(second)}/finish", {"token": second["token"], "error": "x", "retry": False}
    )

    assert (soon.json["state"], never.json["state"]) == ("SCHEDULED", "FAILED")
    assert [job["attempt"] for job in claim(server)] == [2]


def test_a_batch_tells_of_each_job_and_loses_none_for_another(
    server: Server, conn: Connection
) -> None:
    for _ in range(3):
        enqueue(conn)
    jobs = claim(server, max_jobs=3)
    pairs = [{"job_id": job["id"], "token": job["token"]} for job in jobs]
    stranger = {"job_id": jobs[1]["id"], "token": "3f333df6-90a4-4fda-8dd3-9485d27cee36"}

    leases = server.request("POST", "/jobs/heartbeat", {"jobs": [pairs[0], stranger]})
    done = server.request(
        "POST",
        "/jobs/finish",
        {"jobs": [pairs[0] | {"result": {"n": 1}}, stranger, pairs[2] | {"error": "x"}]},
    )

    assert [lease["job_id"] for lease in leases.json["jobs"]] == [jobs[0]["id"]]
    outcomes = [job["outcome"] for job in done.json["jobs"]]
    assert outcomes == ["COMPLETED", "LEASE_LOST", "SCHEDULED"]


def test_finish_claims_the_next_in_the_same_request(server: Server, conn: Connection) -> None:
    enqueue(conn)
    second = enqueue(conn, queue="mail")
    (job,) = claim(server)

    done = server.request(
        "POST",
        f"{held(job)}/finish",
        {"token": job["token"], "claim_next": {"queues": ["default", "mail"], "worker": "w"}},
    )
    last = server.request(
        "POST",
        "/jobs/finish",
        {
            "jobs": [{"job_id": second, "token": done.json["claimed"][0]["token"]}],
            "claim_next": {"queues": ["mail"]},
        },
    )

    assert [job["id"] for job in done.json["claimed"]] == [second]
    assert last.json == {"jobs": [{"job_id": second, "outcome": "COMPLETED"}], "claimed": []}


def test_several_queues_are_claimed_from_by_priority(server: Server, conn: Connection) -> None:
    enqueue(conn, queue="a")
    urgent = enqueue(conn, queue="b", priority=9)

    answer = server.request("POST", "/jobs/claim", {"queues": ["a", "b"], "max_jobs": 1})

    assert [job["id"] for job in answer.json["jobs"]] == [urgent]


def test_a_claim_without_a_wait_is_answered_at_once(server: Server) -> None:
    claim(server)  # the first one of a session makes its plans
    began = time.monotonic()

    assert claim(server) == []
    assert time.monotonic() - began < 1


def test_a_waiting_claim_gets_a_job_as_soon_as_it_is_there(
    server: Server, conn: Connection
) -> None:
    enqueue(conn)
    assert claim(server)  # the first enqueue and the first claim of a session make their plans
    waiting = ask_to_claim(server)
    wait_until(lambda: sleepers(conn) == 1)
    wait_until(lambda: is_quiet(conn))  # from here on it is notified
    began = time.monotonic()
    job_id = enqueue(conn)

    status, body = answer_of(waiting)

    assert time.monotonic() - began < 0.5
    assert (status, [job["id"] for job in body["jobs"]]) == (200, [job_id])


def test_a_waiting_claim_gets_a_job_when_it_becomes_due(server: Server, conn: Connection) -> None:
    waiting = ask_to_claim(server)
    wait_until(lambda: sleepers(conn) == 1)
    enqueue(conn, run_at="2020-01-01Z")
    assert answer_of(waiting)[0] == 200
    later = ask_to_claim(server)
    began = time.monotonic()
    call(conn, "enqueue_job", task="t", run_at=conn.execute("select now() + '1.5 s'").fetchone()[0])

    status, _ = answer_of(later)

    assert status == 200 and 1.3 < time.monotonic() - began < 2.2


def test_a_claim_that_waited_in_vain_is_told_so(server: Server, conn: Connection) -> None:
    began = time.monotonic()

    answer = server.request("POST", "/queues/default/claim", {"wait_seconds": 1.2})

    assert answer.status == 204 and 1.1 < time.monotonic() - began < 3


def announced(conn: Connection) -> int:
    """Return how many have claimed."""
    return conn.execute("select count(*) from rota.workers").fetchone()[0]  # type: ignore[index]


def test_those_who_wait_are_served_in_the_order_in_which_they_came(
    server: Server, conn: Connection
) -> None:
    waiting = []
    for number in range(4):
        waiting.append(ask_to_claim(server, worker=f"w{number}"))
        wait_until(lambda number=number: announced(conn) == number + 1)
    wait_until(lambda: is_quiet(conn))

    ids = []
    for connection in waiting:
        job_id = enqueue(conn)
        status, body = answer_of(connection)
        ids.append((job_id, body["jobs"][0]["id"]))
        assert status == 200

    assert all(made == got for made, got in ids)


def connections(server: Server) -> list[Any]:
    return [
        one
        for one in psutil.Process(server.process.pid).net_connections()
        if one.status == "ESTABLISHED" and one.laddr.port == server.port
    ]


def test_many_jobs_at_once_wake_many_who_wait(server: Server, conn: Connection) -> None:
    waiting = [ask_to_claim(server) for _ in range(20)]
    wait_until(lambda: len(connections(server)) == 20 and sleepers(conn) == 1)
    wait_until(lambda: is_quiet(conn))
    began = time.monotonic()
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}] * 20))

    answers = [answer_of(connection) for connection in waiting]

    assert time.monotonic() - began < 2
    assert sorted(body["jobs"][0]["id"] for _, body in answers) == list(range(1, 21))


def test_hundreds_wait_without_a_connection_to_the_database_and_hold_up_nobody(
    server: Server, conn: Connection
) -> None:
    waiting = [ask_to_claim(server, f"queue-{number % 40}") for number in range(299)]
    waiting.append(ask_to_claim(server, "of-one"))
    wait_until(lambda: len(connections(server)) == 300 and sleepers(conn) == 1)

    taken = []
    for path in ("/health/live", "/health/ready", "/queues") * 10:
        began = time.monotonic()
        assert server.request("GET", path).status == 200
        taken.append(time.monotonic() - began)

    assert sorted(taken)[len(taken) // 2] < 0.25 and max(taken) < 2, taken
    assert api_sessions(conn) <= 15
    enqueue(conn, "of-one")
    assert answer_of(waiting[-1])[0] == 200
    for connection in waiting:
        connection.close()


def test_nothing_is_claimed_for_a_client_that_has_hung_up(server: Server, conn: Connection) -> None:
    gone = ask_to_claim(server)
    wait_until(lambda: sleepers(conn) == 1)
    gone.close()
    wait_until(lambda: sleepers(conn) == 0)

    job_id = enqueue(conn)

    # Another one's time is up: whoever waited has been called meanwhile, by the poll at last.
    assert answer_of(ask_to_claim(server, "other", wait=1.2)) == (204, None)
    assert conn.execute("select state, attempt from rota.jobs").fetchall() == [("SCHEDULED", 0)]
    assert [job["id"] for job in claim(server)] == [job_id]


def test_what_was_claimed_for_a_client_that_hung_up_meanwhile_is_handed_back(
    server: Server, conn: Connection, connect: Callable[..., Connection]
) -> None:
    enqueue(conn)
    with connect().transaction() as holder:
        holder.connection.execute("lock table rota.live_jobs in share mode")
        gone = ask_to_claim(server)
        wait_until(lambda: is_blocked(conn))
        gone.close()
        wait_until(lambda: connections(server) == [])

    released = [("RELEASED", "the client that claimed it had gone")]
    query = "select outcome, error from rota.executions"
    wait_until(lambda: conn.execute(query).fetchall() == released)

    assert conn.execute("select state, attempt from rota.jobs").fetchall() == [("SCHEDULED", 0)]


def is_blocked(conn: Connection) -> bool:
    return conn.execute(
        """
        select exists (
            select from pg_stat_activity
            where application_name = 'rota api' and wait_event_type = 'Lock'
                and datname = current_database()
        )
        """
    ).fetchone() == (True,)


def looks_for_ends(conn: Connection) -> bool:
    """Tell whether somebody waits for the end of a job."""
    return conn.execute(
        """
        select exists (
            select from pg_stat_activity
            where application_name = 'rota api' and query like '%ended_jobs%'
                and datname = current_database()
        )
        """
    ).fetchone() == (True,)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_stop_answers_those_who_wait(
    db: str, conn: Connection, start_server: StartServer, processes: str
) -> None:
    server = start_server(db, arguments=["--processes", processes])
    job_id = enqueue(conn, "elsewhere")
    waiting = [ask_to_claim(server, worker=f"w{number}") for number in range(10)]
    ended = threading.Thread(
        target=lambda: waits.append(server.request("GET", f"/jobs/{job_id}?wait=30"))
    )
    waits: list[Any] = []
    ended.start()
    wait_until(lambda: announced(conn) == 10 and sleepers(conn) >= 1 and looks_for_ends(conn))
    began = time.monotonic()

    status = server.stop()

    assert status == 0 and time.monotonic() - began < 10
    assert [answer_of(connection) for connection in waiting] == [(204, None)] * 10
    ended.join()
    assert waits[0].json["state"] == "SCHEDULED"


def test_claims_wait_also_where_the_database_went_away_meanwhile(
    server: Server, conn: Connection
) -> None:
    waiting = ask_to_claim(server)
    wait_until(lambda: sleepers(conn) == 1)
    wait_until(lambda: is_quiet(conn))  # no claim is in flight
    conn.execute(
        """
        select pg_terminate_backend(pid, 10000) from pg_stat_activity
        where application_name = 'rota api' and datname = current_database()
        """
    )

    enqueue(conn)

    assert answer_of(waiting)[0] == 200


def test_who_claims_is_shown_and_announced_twice_a_minute_at_most(
    server: Server, conn: Connection
) -> None:
    claim(server, worker="w-1")
    seen = conn.execute("select last_seen_at from rota.workers").fetchall()
    for _ in range(5):
        claim(server, worker="w-1")

    assert conn.execute("select worker, queues from rota.workers").fetchall() == [
        ("w-1", ["default"])
    ]
    assert conn.execute("select last_seen_at from rota.workers").fetchall() == seen


def test_an_idle_api_asks_the_database_nothing(server: Server, conn: Connection) -> None:
    claim(server, wait_seconds=0.1)
    wait_until(lambda: sleepers(conn) == 0)

    def statements() -> Any:
        return conn.execute(
            """
            select pid, state_change from pg_stat_activity
            where application_name = 'rota api' and datname = current_database() order by pid
            """
        ).fetchall()

    before = statements()
    time.sleep(2.2)  # the time that is looked at, in which there would be two polls
    assert statements() == before != []


def test_a_job_is_awaited_until_it_has_ended(server: Server, conn: Connection) -> None:
    job_id = enqueue(conn)
    (job,) = claim(server)
    answers: list[Any] = []
    clients = [
        threading.Thread(
            target=lambda: answers.append(server.request("GET", f"/jobs/{job_id}?wait=20"))
        )
        for _ in range(5)
    ]
    for client in clients:
        client.start()
    wait_until(lambda: len(connections(server)) == 5)
    began = time.monotonic()
    server.request("POST", f"{held(job)}/finish", {"token": job["token"], "result": 42})
    for client in clients:
        client.join()

    assert time.monotonic() - began < 2
    assert {(answer.json["state"], answer.json["result"]) for answer in answers} == {
        ("COMPLETED", 42)
    }


def test_who_waits_in_vain_for_an_end_gets_the_job_as_it_is(
    server: Server, conn: Connection
) -> None:
    job_id = enqueue(conn)
    began = time.monotonic()

    answer = server.request("GET", f"/jobs/{job_id}?wait=1")

    assert (answer.status, answer.json["state"]) == (200, "SCHEDULED")
    assert 0.9 < time.monotonic() - began < 3
    assert server.request("GET", "/jobs/99?wait=30").status == 404
    for wrong in ("31", "-1", "x", "1.5"):
        assert server.request("GET", f"/jobs/{job_id}?wait={wrong}").status == 422
