"""What is wrong with a request is said in JSON, names the field, and leaves nothing behind."""

import json
from itertools import product
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg import Connection

from rota.app.errors import status_of
from rota.app.inputs import MAX_BODY_BYTES

DEEP = 100_000

WRONG_JOBS = [
    ({}, "task"),
    ({"task": None}, "task"),
    ({"task": 5}, "task"),
    ({"task": ""}, "task"),
    ({"task": "x" * 10_000}, "task"),
    ({"task": "a\0b"}, "task"),
    ({"task": "a\nb"}, "task"),
    ({"task": "\ud800"}, "task"),
    ({"task": "a", "queue": "q" * 101}, "queue"),
    ({"task": "a", "queue": ["q"]}, "queue"),
    ({"task": "a", "priority": 101}, "priority"),
    ({"task": "a", "priority": True}, "priority"),
    ({"task": "a", "priority": 1.0}, "priority"),
    ({"task": "a", "priority": "1"}, "priority"),
    ({"task": "a", "priority": 2**31}, "priority"),
    ({"task": "a", "priority": 10**4000}, "priority"),
    ({"task": "a", "max_retries": -1}, "max_retries"),
    ({"task": "a", "max_retries": -(2**31) - 1}, "max_retries"),
    ({"task": "a", "timeout_seconds": 0}, "timeout_seconds"),
    ({"task": "a", "timeout_seconds": -5}, "timeout_seconds"),
    ({"task": "a", "timeout_seconds": True}, "timeout_seconds"),
    ({"task": "a", "timeout_seconds": "5"}, "timeout_seconds"),
    ({"task": "a", "timeout_seconds": 10**300}, "timeout_seconds"),
    ({"task": "a", "timeout_seconds": 1e300}, "timeout_seconds"),
    ({"task": "a", "timeout_seconds": 1e12}, "timeout_seconds"),
    ({"task": "a", "run_at": "tomorrow"}, "run_at"),
    ({"task": "a", "run_at": 5}, "run_at"),
    ({"task": "a", "run_at": "2030-01-31"}, "run_at"),
    ({"task": "a", "run_at": "infinity"}, "run_at"),
    ({"task": "a", "run_at": "0001-01-01T00:00:00+14:00"}, "run_at"),
    ({"task": "a", "run_at": "9999-12-31T23:59:59Z"}, "run_at"),
    ({"task": "a", "run_in_seconds": -0.001}, "run_in_seconds"),
    ({"task": "a", "run_in_seconds": 3110400000.001}, "run_in_seconds"),
    ({"task": "a", "run_in_seconds": 10**300}, "run_in_seconds"),
    ({"task": "a", "run_in_seconds": 5, "run_at": "2030-01-31T09:00:00Z"}, "run_in_seconds"),
    ({"task": "a", "unique_key": ""}, "unique_key"),
    ({"task": "a", "key": ""}, "key"),
    ({"task": "a", "key": "k" * 201}, "key"),
    ({"task": "a", "key": "a\0"}, "key"),
    ({"task": "a", "key": 5}, "key"),
    ({"task": "a", "unique_key": "k", "unique_for_seconds": 0}, "unique_for_seconds"),
    ({"task": "a", "unique_key": "k", "unique_for_seconds": 31622400.5}, "unique_for_seconds"),
    ({"task": "a", "unique_key": "k", "unique_for_seconds": "5"}, "unique_for_seconds"),
    ({"task": "a", "unique_for_seconds": 5}, "unique_for_seconds"),
    ({"task": "a", "replace": True}, "replace"),
    ({"task": "a", "unique_key": "k", "replace": 1}, "replace"),
    ({"task": "a", "headers": "a"}, "headers"),
    ({"task": "a", "headers": {"a": 1}}, "headers"),
    ({"task": "a", "headers": {"a": None}}, "headers"),
    ({"task": "a", "headers": {"A": "b"}}, "headers"),
    ({"task": "a", "headers": {"a": "b\0"}}, "headers"),
    ({"task": "a", "headers": {"a": "b" * 8184}}, "headers"),
    ({"task": "a", "unique_key": {}}, "unique_key"),
    ({"task": "a", "payload": {"x": ["\0"]}}, "payload"),
    ({"task": "a", "payload": {"\0": 1}}, "payload"),
    ({"task": "a", "payload": ["\udfff"]}, "payload"),
    ({"task": "a", "name": "n"}, "name"),
    ({"task": "a", "interval_seconds": 5}, "interval_seconds"),
    ({"task": "a", "cron": "* * * * *"}, "cron"),
    ({"task": "a", "id": 5}, "id"),
    ({"task": "a", "state": "COMPLETED"}, "state"),
    ({"task": "a", "schedule_type": "SOMETIMES"}, "schedule_type"),
    ({"task": "a", "schedule_type": 5}, "schedule_type"),
    ({"task": "a", "schedule_type": ["INTERVAL"]}, "schedule_type"),
    ({"task": "a", "schedule_type": "INTERVAL"}, "interval_seconds"),
    ({"task": "a", "schedule_type": "INTERVAL", "interval_seconds": 0}, "interval_seconds"),
    ({"task": "a", "schedule_type": "INTERVAL", "interval_seconds": 0.0005}, "interval_seconds"),
    (
        {
            "task": "a",
            "schedule_type": "INTERVAL",
            "interval_seconds": 60,
            "run_at": "9999-01-01T00:00:00Z",
        },
        "run_at",
    ),
    ({"task": "a", "schedule_type": "INTERVAL", "interval_seconds": 1e18}, "interval_seconds"),
    (
        {"task": "a", "schedule_type": "INTERVAL", "interval_seconds": 5, "unique_key": "k"},
        "unique_key",
    ),
]

WRONG_BULKS = [
    (None, "jobs"),
    ({"task": "a"}, "jobs"),
    ([{"task": "a"}, 5], "jobs[1]"),
    ([{"task": "a"}, {}], "jobs[1].task"),
    ([{"task": "a", "priorty": 5}], "jobs[0].priorty"),
    ([{"task": "a", "timeout": "5 s"}], "jobs[0].timeout"),
    ([{"task": "a", "payload": "\0"}], "jobs[0].payload"),
    ([{"task": "a", "timeout_seconds": 31622400.5}], "jobs[0]: timeout_seconds"),
    ([{"task": "a", "timeout_seconds": 86399999999999}], "timeout"),
    ([{"task": "a", "schedule_type": "INTERVAL"}], "jobs[0].schedule_type"),
    ([{"task": "a", "run_in_seconds": -1}], "jobs[0].run_in_seconds"),
    ([{"task": "a", "key": ""}], "jobs[0]: key"),
    ([{"task": "a"}, {"task": "a", "unique_for_seconds": 5}], "jobs[1]: unique_for_seconds"),
    ([{"task": "a"}, {"task": "a", "max_retries": 1001}], "jobs[1]"),
]

NOT_JSON = [
    b"{",
    b"\xff\xfe",
    b'{"task": "\xff"}',
    b"\xef\xbb\xbf{}",
    '{"task": "a"}'.encode("utf-16"),
    b"[]",
    b'"task"',
    b"null",
    b'{"task": "a", "payload": NaN}',
    b'{"task": "a", "payload": -Infinity}',
    b'{"task": "a", "payload": 1e999}',
    b'{"task": "a", "payload": -1e999}',
    b'{"task": "a", "payload": ' + b"9" * 5000 + b"}",
    b'{"task": "a", "payload": [1e131071, 1e131071]}',
    b'{"task": "a", "payload": 1e-9999}',
    b'{"task": "a", "payload": 0e999999999999999999999}',
    b'{"task": "a", "payload": 1e-99999999999999999999}',
    b'{"task": "a", "payload": 0.' + b"1" * 5000 + b"}",
    b'{"task": "a", "payload": [' + b"1e308," * 4000 + b"0]}",
    b'{"task": "a", "priority": ' + b"9" * 5000 + b"}",
    b'{"task": "a", "payload": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"task": "a", "payload": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
]

WRONG_QUERIES = [
    ("limit=0", "limit"),
    ("limit=201", "limit"),
    ("limit=-1", "limit"),
    ("limit=x", "limit"),
    ("limit=" + "9" * 5000, "limit"),
    ("before=x", "before"),
    ("before=-1", "before"),
    ("before=" + str(2**63), "before"),
    ("before=" + "9" * 5000, "before"),
    ("state=DONE", "state"),
    ("state=RUNNING&state=FAILED", "state"),
    ("schedule_type=CRONTAB", "schedule_type"),
    ("queue=%00", "queue"),
    ("task=a%00b", "task"),
    ("status=RUNNING", "status"),
]

SQLSTATES = {
    403: "42501 RTP01",
    404: "RTN01 RTN99",
    409: "RTC01 RTC02 RTC03 RTC04 RTC06 23505 23503",
    422: "RTV01 RTV02 22P02 22008 23502 23514",
    503: "40001 40P01 08006 25006 25P03 25P04 53300 55P03 57014 57P01",
    500: "42883 XX000 P0001",
}


def send(client: FlaskClient, body: str | bytes, path: str = "/jobs") -> Any:
    return client.post(path, data=body, content_type="application/json")


@pytest.fixture(autouse=True)
def nothing_is_left_behind(conn: Connection) -> Any:
    yield
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (0,)


def test_wrong_field_is_named(client: FlaskClient) -> None:
    for job, named in WRONG_JOBS:
        answer = send(client, json.dumps(job))

        assert answer.status_code == 422, job
        assert answer.json["code"] in ("RTV01", "RTV02"), job
        assert named in answer.json["message"], job


def test_wrong_field_of_a_bulk_is_named(client: FlaskClient) -> None:
    for jobs, named in WRONG_BULKS:
        answer = send(client, json.dumps({"jobs": jobs}), "/jobs/bulk")

        assert answer.status_code == 422, jobs
        assert answer.json["code"] == "RTV01", jobs
        assert named in answer.json["message"], jobs


def test_missing_offset_is_said(client: FlaskClient) -> None:
    answer = send(client, '{"task": "a", "run_at": "2030-01-31T09:00:00"}')

    assert answer.status_code == 422
    assert "offset" in answer.json["message"]


def test_what_is_no_usable_json_is_refused(client: FlaskClient) -> None:
    for path, body in product(("/jobs", "/jobs/bulk"), NOT_JSON):
        answer = send(client, body, path)

        assert answer.status_code == 400, body[:60]
        assert answer.json["code"] == "HTTP400", body[:60]
        for word in ("sys.", "codec", "utf-8-sig", "int_max"):
            assert word not in answer.text, body[:60]


def test_a_payload_nested_too_deeply_is_refused(client: FlaskClient) -> None:
    answer = send(client, b'{"task": "a", "payload": ' + b"[" * 101 + b"]" * 101 + b"}")

    assert answer.status_code == 422
    assert "payload" in answer.json["message"]


def test_nesting_to_the_limit_is_stored(client: FlaskClient, conn: Connection) -> None:
    payload = "[" * 100 + "]" * 100

    answer = send(client, f'{{"task": "a", "payload": {payload}}}')

    assert answer.status_code == 201
    stored = conn.execute("delete from rota.live_jobs returning payload::text").fetchone()
    assert stored == (payload,)


def test_other_content_types_are_refused(client: FlaskClient) -> None:
    paths = ("/jobs", "/jobs/bulk", "/jobs/1/cancel", "/queues/q/pause")
    types = (None, "text/plain", "application/x-www-form-urlencoded")
    for path, content_type in product(paths, types):
        answer = client.post(path, data='{"task": "a"}', content_type=content_type)

        assert answer.status_code == 415, path
        assert answer.json["code"] == "HTTP415", path


def test_too_large_a_body_is_refused(client: FlaskClient) -> None:
    answer = send(client, b'{"task": "a", "payload": "' + b"x" * MAX_BODY_BYTES + b'"}')

    assert answer.status_code == 413
    assert answer.json["code"] == "HTTP413"


def test_wrong_query_is_named(client: FlaskClient) -> None:
    for query, named in WRONG_QUERIES:
        answer = client.get(f"/jobs?{query}")

        assert answer.status_code == 422, query
        assert named in answer.json["message"], query


def test_wrong_place_among_executions_is_named(client: FlaskClient, conn: Connection) -> None:
    client.post("/jobs", json={"task": "a"})
    for before in ("", "x", "infinity", "infinity,1,1,FAILED,", "%00", "9" * 5000):
        answer = client.get(f"/jobs/1/executions?before={before}")

        assert answer.status_code == 422, before
        assert "before" in answer.json["message"], before
    assert client.get("/jobs/1/executions?before=99999999-01-01,1,1,FAILED").status_code == 422
    conn.execute("delete from rota.live_jobs")


def test_unknown_paths_and_methods_answer_in_json(client: FlaskClient) -> None:
    nowhere, no_method = client.get("/nowhere"), client.delete("/jobs/1")

    assert (nowhere.status_code, nowhere.json["code"]) == (404, "HTTP404")
    assert (no_method.status_code, no_method.json["code"]) == (405, "HTTP405")
    assert "GET" in no_method.headers["Allow"]


def test_pages_of_other_sites_are_refused(client: FlaskClient) -> None:
    for origin in ("http://evil.example", "null", "http://localhost:1"):
        answer = client.post("/queues/default/pause", headers={"Origin": origin})

        assert answer.status_code == 403, origin
    assert client.get("/queues").json == {"queues": [], "next": None}


def test_pages_of_this_site_are_served(client: FlaskClient) -> None:
    answer = client.patch(
        "/queues/default", json={"max_retries": 1}, headers={"Origin": "http://localhost"}
    )

    assert answer.status_code == 200


def test_each_sqlstate_has_its_status(conn: Connection) -> None:
    for status, sqlstates in SQLSTATES.items():
        for sqlstate in sqlstates.split():
            with pytest.raises(psycopg.Error) as raised:
                conn.execute(f"do $$ begin raise 'x' using errcode = '{sqlstate}'; end $$")

            assert status_of(raised.value) == status, sqlstate


def test_a_busy_database_is_a_503(client: FlaskClient, connect: Any) -> None:
    with connect().transaction() as blocked:
        blocked.connection.execute("lock table rota.live_jobs")
        answer = client.post("/jobs", json={"task": "a"})

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert set(answer.json) == {"code", "message", "id"}


def test_a_fault_of_ours_says_nothing_but_its_id(
    client: FlaskClient, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    conn.execute("alter function rota.enqueue_job rename to elsewhere")

    answer = client.post("/jobs", json={"task": "a", "payload": "secret payload"})

    assert answer.status_code == 500
    assert answer.json == {
        "code": "HTTP500",
        "message": "internal error",
        "id": answer.json["id"],
    }
    [record] = [
        r for r in caplog.records if getattr(r, "fields", {}).get("id") == answer.json["id"]
    ]
    assert record.fields["sqlstate"] == "42883"
    assert "secret payload" not in str(record.__dict__)


EXACT = [
    "0.1234567890123456789012345",
    "123456789012345678901234567890",
    "-0.10",
    "1.0000000000000000000000000000000000000001",
    "1" + "0" * 4299,
    "0.3",
]


@pytest.mark.parametrize("number", EXACT)
def test_numbers_arrive_with_the_digits_that_were_sent(
    client: FlaskClient, conn: Connection, number: str
) -> None:
    payload = f'[{number}, {{"n": {number}, "s": "\\\\u0000{number}"}}]'
    single = send(client, f'{{"task": "a", "payload": {payload}}}')
    bulk = send(client, f'{{"jobs": [{{"task": "a", "payload": {payload}}}]}}', "/jobs/bulk")

    stored = conn.execute("delete from rota.live_jobs returning payload::text").fetchall()

    assert (single.status_code, bulk.status_code) == (201, 201)
    expected = f'[{number}, {{"n": {number}, "s": "\\\\u0000{number}"}}]'
    assert stored == [(expected,)] * 2


def test_numbers_with_exponents_are_kept_and_written_out(
    client: FlaskClient, conn: Connection
) -> None:
    send(client, '{"task": "a", "payload": [1e3, 1.5E-3, -2e+2, 0e0, 1.7e308]}')

    [(stored,)] = conn.execute("delete from rota.live_jobs returning payload::text").fetchall()

    assert stored == f"[1000, 0.0015, -200, 0, 17{'0' * 307}]"


def test_a_null_payload_is_null_alone_and_in_a_bulk(client: FlaskClient, conn: Connection) -> None:
    client.post("/jobs", json={"task": "a", "payload": None})
    client.post("/jobs/bulk", json={"jobs": [{"task": "a", "payload": None}, {"task": "a"}]})

    stored = conn.execute("delete from rota.live_jobs returning payload::text").fetchall()

    assert sorted(stored) == [("null",), ("null",), ("{}",)]


# What PostgreSQL says is about settings, rows and values of the database.
OWN_WORDS = {
    "22P02": "a value is out of range",
    "22008": "a value is out of range",
    "22P05": "a text has a character",
    "23514": "would break a rule",
    "23502": "would break a rule",
    "23503": "would break a rule",
    "23505": "another one has this key",
    "55P03": "another transaction holds",
    "57014": "took longer",
    "25P04": "took longer",
    "40001": "another transaction was in the way",
    "40P01": "another transaction was in the way",
    "53300": "short of connections",
    "25006": "can only be read",
    "57P03": "not available",
    "42P01": "internal error",
}


@pytest.mark.parametrize("sqlstate", OWN_WORDS)
def test_what_the_server_says_is_not_passed_on(
    client: FlaskClient, conn: Connection, caplog: pytest.LogCaptureFixture, sqlstate: str
) -> None:
    conn.execute(
        f"""
        create or replace function rota.retry_job(job_id bigint)
            returns rota.job_outcome
            language plpgsql
        as $$
        begin
            raise exception 'canary message of %', job_id
                using errcode = '{sqlstate}', detail = 'canary row', hint = 'canary DateStyle';
        end;
        $$
        """
    )

    answer = client.post("/jobs/1/retry")

    assert "canary" not in answer.text
    assert OWN_WORDS[sqlstate] in answer.json["message"]
    assert ("Retry-After" in answer.headers) == (answer.status_code == 503)
    assert any(
        getattr(record, "fields", {}).get("sqlstate") == sqlstate for record in caplog.records
    )
    if answer.status_code < 500:
        assert "canary" not in str([record.__dict__ for record in caplog.records])


def test_what_our_functions_say_is_passed_on(client: FlaskClient) -> None:
    answer = client.post("/jobs/1/retry")

    assert (answer.status_code, answer.json["code"]) == (404, "RTN01")
    assert answer.json["message"] == "there is no job 1"


def test_an_end_before_the_start_is_named_and_shows_no_row(
    client: FlaskClient, conn: Connection
) -> None:
    client.put(
        "/schedules/x", json={"task": "a", "every": "PT1H", "starts_at": "2035-01-01T00:00Z"}
    )

    answer = client.put(
        "/schedules/x", json={"task": "a", "every": "PT1H", "ends_at": "2034-01-01T00:00Z"}
    )

    assert (answer.status_code, answer.json["code"]) == (422, "RTV01")
    assert answer.json["message"].startswith("ends_at must be later than starts_at")
    assert "row" not in answer.text and answer.json["detail"] is None
    assert client.get("/schedules/x").json["ends_at"] is None
    conn.execute("delete from rota.schedules; delete from rota.live_jobs")


@pytest.mark.parametrize("every", ["soon", "1 fortnight of days", "999999999 years", "P", "\u2028"])
def test_what_is_no_interval_is_named_in_words_of_ours(client: FlaskClient, every: str) -> None:
    for path in ("/schedules/preview", "/schedules"):
        body = {"every": every} | ({} if "preview" in path else {"task": "a", "name": "n"})
        answer = client.post(path, json=body)

        assert answer.status_code == 422, path
        assert answer.json["message"] == "every: must be an interval, such as P1M or 1 month"
