"""Where all workers are workers over HTTP, somebody still takes back what the dead ones held."""

import threading
from datetime import timedelta

import pytest
from flask.testing import FlaskClient
from psycopg import Connection

from rota.db.gateway import call
from rota.testing import Clock
from tests.api.conftest import Server
from tests.waiting import wait_until


@pytest.mark.parametrize("who", ["nobody in particular", "a token"])
def test_a_job_whose_worker_over_http_has_died_comes_back_though_no_other_worker_runs(
    server: Server, conn: Connection, clock: Clock, who: str
) -> None:
    sent = {}
    if who == "a token":
        (made,) = call(conn, "create_token", principal="rota_worker")
        sent = {"Authorization": f"Bearer {made['token']}"}
    call(conn, "enqueue_job", task="t", queue="q")
    conn.execute("select configure_queue('q', backoff_base => '1 millisecond')")
    server.request("POST", "/queues/q/claim", {"worker": "dies", "lease_seconds": 30}, **sent)
    clock.advance(timedelta(seconds=31))

    heir = {"wait_seconds": 30, "worker": "heir"}
    answer = server.request("POST", "/queues/q/claim", heir, **sent)

    assert [job["attempt"] for job in answer.json["jobs"]] == [2]
    ended = conn.execute("select outcome, worker from rota.executions where attempt = 1").fetchall()
    assert ended == [("LOST", "dies")]


def test_nothing_is_done_in_the_name_of_one_who_may_not_claim(
    client: FlaskClient, conn: Connection
) -> None:
    token = call(conn, "create_token", principal="rota_reader")[0]["token"]

    def upkeep() -> list[int | None]:
        return [thread.ident for thread in threading.enumerate() if thread.name == "upkeep"]

    before = upkeep()
    headers = {"Authorization": f"Bearer {token}"}
    refused = client.post("/queues/q/claim", json={}, headers=headers)

    assert refused.status_code == 403
    assert upkeep() == before


@pytest.mark.parametrize("chore", ["maintain", "take_census", "roll_up"])
def test_what_is_to_be_done_for_all_is_done_where_all_workers_are_workers_over_http(
    server: Server, conn: Connection, clock: Clock, chore: str
) -> None:
    done = "select ran_at, ready_until from rota.chores where chore = %s"
    first = conn.execute(done, [chore]).fetchone()
    clock.advance(timedelta(minutes=5))

    server.request("POST", "/queues/q/claim", {})

    wait_until(lambda: conn.execute(done, [chore]).fetchone() != first)
