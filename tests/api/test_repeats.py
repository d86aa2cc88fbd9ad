"""Requests with an Idempotency-Key: done once, and answered alike."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg import Connection

from rota.db.gateway import call
from rota.testing import Clock
from tests.api.conftest import Server
from tests.waiting import wait_until

KEY = {"Idempotency-Key": "order-7"}
CREATIONS = {
    "/jobs": {"task": "a"},
    "/jobs/bulk": {"jobs": [{"task": "a"}, {"task": "b"}]},
    "/workflows": {"jobs": [{"task": "a"}, {"task": "b", "depends_on": "previous"}]},
    "/schedules": {"name": "other", "task": "a", "cron": "@daily"},
    "/schedules/s/backfill": {"starts_at": "2030-01-01T00:00Z", "ends_at": "2030-01-02T00:00Z"},
}


@pytest.fixture
def client(client: FlaskClient, conn: Connection) -> FlaskClient:
    call(conn, "schedule_job", task="a", every="6 hours", name="s", starts_at="2030-01-01Z")
    return client


def count(conn: Connection) -> int:
    return conn.execute("select count(*) from rota.jobs").fetchone()[0]  # type: ignore[index]


@pytest.mark.parametrize("path", CREATIONS)
def test_a_repeat_adds_nothing_and_is_answered_as_the_first(
    client: FlaskClient, conn: Connection, path: str
) -> None:
    before = count(conn)
    first = client.post(path, json=CREATIONS[path], headers=KEY)
    added = count(conn)

    again = client.post(path, json=CREATIONS[path], headers=KEY)

    assert first.status_code == 201 and added > before == count(conn) - (added - before)
    assert (again.status_code, again.data) == (first.status_code, first.data)
    assert again.headers.get("Location") == first.headers.get("Location")
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("path", CREATIONS)
def test_a_key_stands_for_one_request(client: FlaskClient, conn: Connection, path: str) -> None:
    client.post("/jobs", json={"task": "first"}, headers=KEY)
    before = count(conn)

    other = client.post(path, json=CREATIONS[path], headers=KEY)

    assert (other.status_code, other.json["code"]) == (409, "RTC03")
    assert count(conn) == before


def test_a_repeat_is_answered_also_when_the_job_has_ended(
    client: FlaskClient, conn: Connection
) -> None:
    first = client.post("/jobs", json={"task": "a", "unique_key": "k"}, headers=KEY)
    call(conn, "cancel_job", job_id=first.json["job_id"])

    again = client.post("/jobs", json={"task": "a", "unique_key": "k"}, headers=KEY)

    assert again.data == first.data


def test_requests_without_a_key_or_with_another_are_done_each(
    client: FlaskClient, conn: Connection
) -> None:
    before = count(conn)
    for headers in ({}, {}, KEY, {"Idempotency-Key": "order-8"}):
        assert client.post("/jobs", json={"task": "a"}, headers=headers).status_code == 201

    assert count(conn) == before + 4


def test_what_failed_leaves_nothing_behind(client: FlaskClient, conn: Connection) -> None:
    failed = client.post("/jobs", json={"task": "a", "priority": 1000}, headers=KEY)

    again = client.post("/jobs", json={"task": "a"}, headers=KEY)

    assert (failed.status_code, again.status_code) == (422, 201)
    assert "Idempotency-Replayed" not in again.headers


@pytest.mark.parametrize("key", ["", "x" * 201, "caf\u00e9"])
def test_a_key_has_a_bounded_length(client: FlaskClient, key: str) -> None:
    answer = client.post("/jobs", json={"task": "a"}, headers={"Idempotency-Key": key})

    assert (answer.status_code, answer.json["code"]) == (422, "RTV01")
    assert answer.json["message"].startswith("Idempotency-Key: must have 1 to 200 characters")


def test_concurrent_repeats_wait_for_the_first_and_are_answered_alike(
    server: Server, conn: Connection, connect: Callable[..., Connection]
) -> None:
    def post() -> Any:
        return server.request("POST", "/jobs", {"task": "a"}, **KEY)

    with ThreadPoolExecutor(5) as pool:
        with connect().transaction() as holder:
            holder.connection.execute("lock table rota.live_jobs")
            calls = [pool.submit(post) for _ in range(5)]
            wait_until(lambda: blocked(conn) == 5)
        answers = [call.result() for call in calls]

    assert {(answer.status, answer.body) for answer in answers} == {(201, answers[0].body)}
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 4
    assert count(conn) == 1


def test_a_repeat_goes_on_itself_when_the_first_was_rolled_back(
    client: FlaskClient, conn: Connection, connect: Callable[..., Connection]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with connect().transaction(force_rollback=True) as first:
            call(first.connection, "begin_request", key="order-7", fingerprint="another")
            post = pool.submit(client.post, "/jobs", json={"task": "a"}, headers=KEY)
            wait_until(lambda: blocked(conn) == 1)
        answer = post.result()

    assert answer.status_code == 201 and "Idempotency-Replayed" not in answer.headers


def blocked(conn: Connection) -> int:
    row = conn.execute(
        """
        select count(*) from pg_stat_activity
        where application_name = 'rota api' and wait_event_type = 'Lock'
            and datname = current_database()
        """
    ).fetchone()
    assert row
    return row[0]


def test_a_key_is_free_again_after_a_day(
    client: FlaskClient, conn: Connection, clock: Clock
) -> None:
    first = client.post("/jobs", json={"task": "a"}, headers=KEY)
    clock.advance(timedelta(hours=23, minutes=59))
    kept = client.post("/jobs", json={"task": "a"}, headers=KEY)
    clock.advance(timedelta(minutes=2))
    new = client.post("/jobs", json={"task": "b"}, headers=KEY)

    assert kept.data == first.data
    assert new.status_code == 201 and new.json["job_id"] != first.json["job_id"]


def test_maintain_forgets_what_is_older_than_a_day_and_passes_by_what_is_held(
    conn: Connection, connect: Callable[..., Connection], clock: Clock
) -> None:
    conn.execute(
        """
        insert into rota.requests (caller, key, fingerprint, created_at)
        select 'a', g::text, 'f', rota._now() from generate_series(1, 12000) as g
        """
    )
    clock.advance(timedelta(hours=23))
    call(conn, "begin_request", key="new", fingerprint="f")
    clock.advance(timedelta(hours=2))
    with connect().transaction() as holder:
        holder.connection.execute("select from rota.requests where key = '7' for update")
        call(conn, "maintain")

    left = conn.execute("select key from rota.requests order by key").fetchall()
    assert left == [("7",), ("new",)]


def test_requests_forget_old_ones_so_that_their_table_does_not_grow_without_upkeep(
    conn: Connection, connect: Callable[..., Connection], clock: Clock
) -> None:
    begin = "select rota.begin_request(%s || g::text, 'f') from generate_series(1, 2000) as g"
    conn.execute(begin, ["old"])
    clock.advance(timedelta(hours=25))
    with connect().transaction() as holder:
        holder.connection.execute("select from rota.requests where key = 'old7' for update")

        conn.execute(begin, ["new"])
        conn.execute(begin, ["newer"])

    left = conn.execute("select count(*), min(key), max(key) from rota.requests").fetchone()
    assert left == (4001, "new1", "old7")


def test_a_key_is_its_caller_s_own(connect: Callable[..., Connection], conn: Connection) -> None:
    producer, operator = connect(role="rota_producer"), connect(role="rota_operator")
    with producer.transaction():
        call(producer, "begin_request", key="k", fingerprint="f")
        call(producer, "end_request", key="k", status=201, answer="{}")

    (mine,) = call(producer, "begin_request", key="k", fingerprint="f")
    with operator.transaction(force_rollback=True):
        (theirs,) = call(operator, "begin_request", key="k", fingerprint="other")
    with pytest.raises(psycopg.DatabaseError) as error:
        call(operator, "end_request", key="k", status=200, answer="forged")

    assert (mine["status"], mine["answer"]) == (201, "{}")
    assert theirs["status"] is None
    assert error.value.sqlstate == "RTC01"
