"""The examples of the documentation: what is sent is accepted, what is answered is what comes."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import jsonschema
import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb
from werkzeug.test import TestResponse

from rota.app import create_app
from rota.app.inputs import MAX_BODY_BYTES
from rota.db.gateway import call
from tests.api.conftest import Server
from tests.api.documentation import (
    OPERATIONS,
    as_json_schema,
    examples,
    operation,
    request_url,
    requests,
    resolve,
    responses,
    with_workflow,
)

WORKER = "8f14e45f-ceea-467f-a0e6-9c1f3e7d2b10"


@pytest.fixture
def spec(client: FlaskClient) -> dict[str, Any]:
    return client.get("/apispec.json").json


def test_every_example_of_an_answer_is_of_its_schema(spec: dict[str, Any]) -> None:
    checked = 0
    for name in OPERATIONS:
        for status, response in responses(spec, name).items():
            if status in ("204", "304"):
                assert "content" not in response, name
                continue
            if "application/json" not in response["content"]:
                continue  # text/plain
            schema = response["content"]["application/json"]["schema"]
            for example in examples(spec, response):
                jsonschema.validate(
                    example, as_json_schema(schema | {"components": spec["components"]})
                )
                checked += 1
    for name, schema in spec["components"]["schemas"].items():
        if "example" in schema:
            closed = as_json_schema(schema | {"components": spec["components"]})
            jsonschema.validate(schema["example"], closed)
            assert schema["example"].keys() <= all_properties(spec, schema), name
            checked += 1
    assert checked > 200


def all_properties(spec: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    parts = [resolve(spec, part) for part in schema.get("allOf", [schema])]
    return {name for part in parts for name in part["properties"]}


def test_what_is_sent_is_accepted_and_what_comes_back_is_shaped_as_shown(
    server: Server, conn: Connection, spec: dict[str, Any]
) -> None:
    answered: dict[tuple[str, int], list[Any]] = {}

    def send(name: str, body: Any) -> int:
        url = request_url(spec, name)
        if TOKEN in str(body):
            url, body = with_leases(conn, url, body)
        elif url.startswith(("/jobs/1/parents", "/jobs/1/steps")):
            url = with_a_past(conn, url)
        url = with_workflow(conn, url)
        answer = server.request(name.split()[0], url, body)
        response = resolve(spec, operation(spec, name)["responses"][str(answer.status)])
        if answer.status == 204:
            assert not answer.body
        elif "application/json" not in response["content"]:
            assert answer.headers.get_content_type() in response["content"]
            return answer.status
        else:
            schema = response["content"]["application/json"]["schema"]
            jsonschema.validate(
                answer.json, as_json_schema(schema | {"components": spec["components"]})
            )
        assert answer.status < 300 or (name, answer.status) in answered_twice, (name, answer.body)
        answered.setdefault((name, answer.status), []).append(answer.body and answer.json)
        return answer.status

    # Sent again at once, these find that it is done.
    answered_twice = {
        ("POST /jobs/{job_id}/retry", 409),
        ("DELETE /schedules/{name}", 404),
        ("DELETE /queues/{queue}", 404),
    }
    tell_of_a_worker(conn)
    for _ in range(2):
        call(conn, "configure_queue", queue="old-mail")
        for name in OPERATIONS:
            for body in requests(spec, name) * 2:
                send(name, body)
                if (name, 201) in answered and name == "POST /jobs":
                    fail_once(conn)
            if "/claim" in name:
                send("POST /jobs", requests(spec, "POST /jobs")[0])  # the others were cancelled
                while send(name, body) != 204:
                    pass
    send("PUT /schedules/{name}", requests(spec, "PUT /schedules/{name}")[0])  # it was deleted

    for name in OPERATIONS:
        for status, response in responses(spec, name).items():
            if "application/json" not in response.get("content", {"application/json": None}):
                continue
            if status in ("200", "201"):
                real = [parts for body in answered[name, int(status)] for parts in shapes(body)]
                for example in examples(spec, response):
                    for shape in shapes(example):
                        assert shape in real, (name, status)
            elif status == "204":
                assert (name, 204) in answered


TOKEN = "3f333df6-90a4-4fda-8dd3-9485d27cee36"  # of the examples


def with_leases(conn: Connection, url: str, body: Any) -> tuple[str, Any]:
    """Put two jobs that are held, and their tokens, in the place of the examples' jobs 1 and 2."""
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "echo", "queue": "held"}] * 2))
    claimed = call(conn, "claim_next_job", queues=["held"], max_jobs=2)
    held = {
        number: {"job_id": job["id"], "token": str(job["token"])}
        for number, job in enumerate(claimed, start=1)
    }
    if "jobs" in body:
        return url, body | {"jobs": [job | held[job["job_id"]] for job in body["jobs"]]}
    url = url.replace("/jobs/1/", f"/jobs/{held[1]['job_id']}/")
    return url, body | {"token": held[1]["token"]}


def with_a_past(conn: Connection, url: str) -> str:
    """Put a job that has a parent and has recorded a step in the place of the examples' job 1."""
    job = {"task": "echo", "queue": "held"}
    graph = [job | {"node": "extract"}, job | {"depends_on": "previous"}]
    call(conn, "enqueue_workflow", jobs=Jsonb(graph))
    (parent,) = call(conn, "claim_next_job", queues=["held"])
    held = {"job_id": parent["id"], "token": parent["token"]}
    call(conn, "finish_job", **held, result=Jsonb({"rows": 3}))
    (child,) = call(conn, "claim_next_job", queues=["held"])
    held = {"job_id": child["id"], "token": child["token"]}
    call(conn, "record_step", **held, step="charge", result=Jsonb({"charge": "ch_7"}))
    call(conn, "finish_job", **held)
    return url.replace("/jobs/1/", f"/jobs/{child['id']}/")


def tell_of_a_worker(conn: Connection) -> None:
    call(
        conn,
        "announce_worker",
        worker=WORKER,
        host="worker-1",
        pid=4711,
        queues=["default"],
        concurrency=4,
        version="v",
        tasks=["echo"],
        overrun=0,
        clock=datetime.now(UTC),
    )


def fail_once(conn: Connection) -> None:
    """Let the first attempt of the first job fail, if that has not happened."""
    if conn.execute("select 1 from rota.executions").fetchone() is None:
        (claimed,) = call(conn, "claim_next_job", worker=WORKER)
        held = {"job_id": claimed["id"], "token": claimed["token"]}
        call(conn, "heartbeat_job", **held, progress=Jsonb({"sent": 3}))
        call(conn, "finish_job", **held, error="no answer from mail.example.com")
        # Long enough to be asked about, also on a busy machine.
        later = "update rota.live_jobs set run_at = run_at + '1 minute' where id = %s"
        conn.execute(later, [claimed["id"]])


def shapes(value: Any) -> Iterator[Any]:
    """Tell what a value is made of: of a list each item is a part on its own.

    Of texts and numbers only the kind is told, but for words such as SCHEDULED. Nothing is left of
    a list but that it is one; whether an answer has items is chance.
    """
    if isinstance(value, list):
        for item in value:
            yield from shapes(item)
        return
    yield shape(value)
    if isinstance(value, dict):
        for inner in value.values():
            if isinstance(inner, list):
                yield from shapes(inner)


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return []
    if isinstance(value, str):
        if re.fullmatch("[A-Z_]+", value):
            return value
        return "a time" if re.match(r"\d{4}-\d\d-\d\dT", value) else "a text"
    return "a number" if type(value) in (int, float) else value


# How to get the answers that have an example of their own, or one that fits what is asked for.
BAD_QUERIES = {
    "GET /jobs/counts": "state=LOST",
    "GET /jobs/{job_id}": "wait=31",
    "GET /workflows/{workflow_id}": "limit=1001",
    "GET /health/ready": "write=2",
}
BAD_BODIES = {
    "POST /queues/{queue}/claim": {"wait_seconds": 31},
    "POST /jobs/claim": {},
    "POST /jobs/{job_id}/finish": {},
    "POST /jobs/finish": {"jobs": [{"job_id": 1, "token": TOKEN}, {"job_id": 2}]},
    "POST /jobs/{job_id}/heartbeat": {},
    "POST /jobs/heartbeat": {"jobs": [{"job_id": 1}]},
    "POST /jobs/{job_id}/release": {},
    "POST /workflows": {"jobs": [{"task": "echo"}, {}]},
    "POST /workflows/{workflow_id}/cancel": {"reason": 5},
    "POST /jobs/{job_id}/steps": {"token": TOKEN},
    "POST /jobs/{job_id}/sleep": {"token": TOKEN, "delay_seconds": 1},
    "POST /jobs/{job_id}/await": {"token": TOKEN, "event": "e"},
    "POST /events/{event}": {"paid": True},
    "POST /jobs": {},
    "POST /jobs/bulk": {"jobs": [{"task": "echo"}, {}]},
    "POST /jobs/{job_id}/cancel": {"reason": 5},
    "POST /jobs/cancel": {"reason": "no filter"},
    "POST /jobs/retry": {},
    "POST /schedules": {"name": "nightly", "task": "echo"},
    "PUT /schedules/{name}": {"task": "echo", "every": "now and then"},
    "POST /schedules/{name}/backfill": {"starts_at": "2030-01-01T00:00:00Z"},
    "POST /schedules/preview": {"cron": "@daily", "n": 2.5},
    "PATCH /queues/{queue}": {"timeout_seconds": 0},
    "PATCH /queues/{queue}/keys/{key}": {"starts_period_seconds": 0},
}
NO_SUCH_PATHS = {
    "POST /queues/{queue}/claim": "/queues//claim",
    "POST /jobs/{job_id}/finish": "/jobs/x/finish",
    "POST /jobs/{job_id}/heartbeat": "/jobs/x/heartbeat",
    "POST /jobs/{job_id}/release": "/jobs/x/release",
    "POST /jobs/{job_id}/steps": "/jobs/x/steps",
    "POST /jobs/{job_id}/sleep": "/jobs/x/sleep",
    "POST /jobs/{job_id}/await": "/jobs/x/await",
    "POST /events/{event}": "/events/",
    "PUT /schedules/{name}": "/schedules/",
    "PATCH /queues/{queue}": "/queues/",
    "PATCH /queues/{queue}/keys/{key}": "/queues/default/keys/",
}

OF_NOBODY = {"POST /workflows": {"jobs": [{"task": "echo", "depends_on": [1]}]}}


def errors(spec: dict[str, Any], status: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Find the operations that may answer with this status, and what it says then."""
    for name in OPERATIONS:
        response = responses(spec, name).get(status)
        if response:
            yield from ((name, example) for example in examples(spec, response))


def send(
    client: FlaskClient, spec: dict[str, Any], name: str, path: str = "", **request: Any
) -> TestResponse:
    if not request.keys() & {"json", "data"}:
        request["json"] = requests(spec, name)[0]
    return client.open(path or request_url(spec, name), method=name.split()[0], **request)


def is_read(name: str) -> bool:
    return name.startswith("GET ")


def is_change(name: str) -> bool:
    return not is_read(name)


@pytest.mark.parametrize(
    ("status", "of", "request_"),
    [
        ("400", is_read, {"headers": {"Host": "a b"}}),
        ("400", is_change, {"data": b'{"task": echo}', "content_type": "application/json"}),
        ("403", bool, {"headers": {"Origin": "http://evil.example"}}),
        (
            "413",
            is_change,
            {"data": b" " * (MAX_BODY_BYTES + 1), "content_type": "application/json"},
        ),
        ("415", is_change, {"data": b"task=echo", "content_type": "text/plain"}),
        ("421", bool, {"headers": {"Host": "evil.example"}}),
    ],
)
def test_errors_that_are_alike_everywhere_are_shown_as_they_come(
    client: FlaskClient,
    spec: dict[str, Any],
    status: str,
    of: Callable[[str], bool],
    request_: dict[str, Any],
) -> None:
    found = [
        (name, example)
        for name, example in errors(spec, status)
        if of(name) and example["code"] != "42501"
    ]

    assert [name for name, _ in found] == list(filter(of, OPERATIONS))
    for name, example in found:
        answer = send(client, spec, name, **request_)
        assert (answer.status_code, answer.json) == (int(status), example), name


def test_that_a_head_is_too_large_is_shown_as_it_is_answered(
    server: Server, spec: dict[str, Any]
) -> None:
    found = dict(errors(spec, "431"))
    too_many = {f"X-{number}": "x" for number in range(1000)}

    assert list(found) == list(OPERATIONS)
    for name, example in found.items():
        answer = server.request(name.split()[0], request_url(spec, name), **too_many)
        assert (answer.status, answer.json) == (431, example), name


def test_what_is_not_there_is_shown_as_it_is_answered(
    client: FlaskClient, spec: dict[str, Any]
) -> None:
    found = list(errors(spec, "404"))

    assert {name for name, _ in found} == {name for name in OPERATIONS if "{" in name} | {
        *OF_NOBODY
    }
    for name, example in found:
        body = OF_NOBODY.get(name, requests(spec, name)[0])
        answer = send(client, spec, name, NO_SUCH_PATHS.get(name, ""), json=body)
        assert (answer.status_code, answer.json) == (404, example), name


def test_wrong_fields_are_shown_as_they_are_answered(
    client: FlaskClient, spec: dict[str, Any]
) -> None:
    found = list(errors(spec, "422"))

    assert {name for name, _ in found} > set(BAD_BODIES)
    for name, example in found:
        if name.startswith("GET"):
            query = BAD_QUERIES.get(name, "limit=0")
            path = request_url(spec, name).split("?")[0]
            answer = send(client, spec, name, f"{path}?{query}")
        else:
            assert (name in BAD_BODIES) == ("requestBody" in operation(spec, name)), name
            answer = send(client, spec, name, json=BAD_BODIES.get(name, {"force": True}))
        assert (answer.status_code, answer.json) == (422, example), name


def test_conflicts_are_shown_as_they_are_answered(
    client: FlaskClient, conn: Connection, spec: dict[str, Any]
) -> None:
    call(conn, "enqueue_job", task="echo")
    (claimed,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=claimed["id"], token=claimed["token"])
    call(conn, "enqueue_job", task="echo", queue="old-mail")
    only_slot = {"starts_at": "2040-01-01Z", "ends_at": "2040-01-02Z"}
    call(conn, "schedule_job", task="echo", name="nightly", every="1 day", **only_slot)
    # As a run is left whose next slot could not be computed when it ended.
    conn.execute("update rota.live_jobs set unsettled_since = now() where name = 'nightly'")

    found = dict(errors(spec, "409"))

    assert set(found) == {
        "POST /jobs/{job_id}/cancel",
        "POST /jobs/{job_id}/retry",
        "POST /schedules/{name}/trigger",
        "DELETE /queues/{queue}",
        "POST /jobs/{job_id}/finish",
        "POST /jobs/{job_id}/heartbeat",
        "POST /jobs/{job_id}/release",
        "POST /jobs/{job_id}/steps",
        "POST /jobs/{job_id}/sleep",
        "POST /jobs/{job_id}/await",
        *WITH_A_KEY,
    }
    client.post("/jobs", json={"task": "echo"}, headers={"Idempotency-Key": "taken"})
    for name, example in found.items():
        key = {"Idempotency-Key": "taken"} if name in WITH_A_KEY else {}
        answer = send(client, spec, name, headers=key)
        assert (answer.status_code, answer.json) == (409, example), name
    call(conn, "delete_schedule", name="nightly")


WITH_A_KEY = {
    *("POST /jobs", "POST /jobs/bulk", "POST /workflows", "POST /schedules"),
    "POST /schedules/{name}/backfill",
}


def without_id(body: dict[str, Any]) -> dict[str, Any]:
    return body | ({"id": "32 digits"} if re.fullmatch("[0-9a-f]{32}", body.get("id", "")) else {})


def test_failures_are_shown_as_they_are_answered(db: str, spec: dict[str, Any]) -> None:
    app = create_app(db)
    with psycopg.connect(db) as conn:
        conn.execute("alter function rota.needs_token rename to something_else")

    for name, example in errors(spec, "500"):
        if "/health/" not in name:
            answer = send(app.test_client(), spec, name)
            assert answer.status_code == 500, (name, answer.text)
            assert without_id(answer.json) == without_id(example), name
    app.extensions["database"].close()


def test_that_the_database_is_away_is_shown_as_it_is_answered(spec: dict[str, Any]) -> None:
    app = create_app("postgresql://127.0.0.1:9/nowhere")

    for name, example in errors(spec, "503"):
        if "/health/" not in name:
            answer = send(app.test_client(), spec, name)
            assert answer.status_code == 503, (name, answer.text)
            assert without_id(answer.json) == without_id(example), name
    app.extensions["database"].close()


def test_that_nothing_is_deployed_is_shown_as_it_is_answered(db: str, spec: dict[str, Any]) -> None:
    app = create_app(make_conninfo(db, dbname="postgres"))
    example = dict(errors(spec, "503"))["GET /health/ready"]

    answer = app.test_client().get("/health/ready")

    assert (answer.status_code, answer.json) == (503, example)
    app.extensions["database"].close()
