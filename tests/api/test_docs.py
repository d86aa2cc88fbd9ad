"""The documentation is complete, its examples work, and its page is the current Swagger UI."""

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from rota.app import create_app, jobs, queues, schedules, steps, work, workflows
from tests.api.documentation import (
    OPERATIONS,
    operation,
    request_url,
    requests,
    resolve,
    with_workflow,
)


@pytest.fixture
def spec(client: FlaskClient) -> dict[str, Any]:
    return client.get("/apispec.json").json


def documented_path(rule: str) -> str:
    """Write Flask's ``/jobs/<id:job_id>`` as OpenAPI's ``/jobs/{job_id}``."""
    return re.sub("<(?:[^<>:]*:)?([^<>]*)>", r"{\1}", rule)


def test_every_route_is_documented(client: FlaskClient, spec: dict[str, Any]) -> None:
    routes = {
        f"{method} {documented_path(rule.rule)}"
        for rule in client.application.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if not rule.endpoint.startswith(("docs.", "flasgger.", "ui."))
    }

    documented = {
        f"{method.upper()} {path}" for path, methods in spec["paths"].items() for method in methods
    }

    assert routes == documented == set(OPERATIONS)


def test_every_operation_says_what_it_does(spec: dict[str, Any]) -> None:
    for name in OPERATIONS:
        described = operation(spec, name)
        assert described["summary"].endswith("."), name
        assert described["tags"][0] in {tag["name"] for tag in spec["tags"]}, name
        for response in described["responses"].values():
            assert resolve(spec, response)["description"].endswith("."), name


def test_every_operation_says_which_tokens_it_takes(spec: dict[str, Any]) -> None:
    (scheme,) = spec["components"]["securitySchemes"].items()

    assert (scheme[0], scheme[1]["type"], scheme[1]["scheme"]) == ("bearerAuth", "http", "bearer")
    for name in OPERATIONS:
        described = operation(spec, name)
        if "/health/" in name:
            assert described["security"] == [] and "x-scopes" not in described
            assert "401" not in described["responses"]
            continue
        assert described["security"] == [{"bearerAuth": []}], name
        assert set(described["x-scopes"]) <= {"producer", "worker", "operator", "reader"}, name
        roles = " or ".join(f"`rota_{scope}`" for scope in described["x-scopes"])
        assert described["description"].endswith(f"For tokens with {roles}."), name
        refused = {
            status: resolve(spec, described["responses"][status]) for status in ("401", "403")
        }
        assert "WWW-Authenticate" in refused["401"]["headers"], name
        assert "no_right" in refused["403"]["content"]["application/json"]["examples"], name


def test_the_api_needs_no_more_than_three_roles(db: str, conn: Connection) -> None:
    producer, operator, worker = (
        create_app(make_conninfo(db, options=f"-c role={role}"))
        for role in ("rota_producer", "rota_operator", "rota_worker")
    )
    spec = operator.test_client().get("/apispec.json").json
    operator.test_client().patch("/queues/old-mail", json={})

    for name in OPERATIONS:
        app, scopes = operator, operation(spec, name).get("x-scopes", ["operator"])
        if "operator" not in scopes:
            app = worker if "worker" in scopes else producer
        for body in requests(spec, name):
            url = with_workflow(conn, request_url(spec, name))
            answer = app.test_client().open(url, method=name.split()[0], json=body)

            no_lease = app is worker and answer.get_json(silent=True) and answer.json.get("code")
            assert answer.status_code < 300 or no_lease == "RTC02", (name, answer.text)
    for app in (producer, operator, worker):
        app.extensions["database"].close()


def test_every_operation_has_its_name(spec: dict[str, Any]) -> None:
    names = {name: operation(spec, name)["operationId"] for name in OPERATIONS}

    assert names == OPERATIONS
    assert len(set(names.values())) == len(names)


def schemas_within(part: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Find every schema of the document, with the name of the field or component that it is."""
    if isinstance(part, list):
        for item in part:
            yield from schemas_within(item, name)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key in ("properties", "schemas"):
                for child, schema in value.items():
                    yield child, schema
                    yield from schemas_within(schema, child)
            elif key not in ("example", "examples"):
                if key in ("schema", "items"):
                    yield name, value
                yield from schemas_within(value, key)


def test_every_schema_has_a_type_and_every_object_a_name(spec: dict[str, Any]) -> None:
    """So that generated clients have a class for each, and nothing they must take as it comes."""
    any_json = {"payload", "result", "progress", "evidence"}
    found = list(schemas_within(spec))
    components = spec["components"]["schemas"]

    assert {name for name, _ in found} > any_json | components.keys()
    for name, schema in found:
        assert name in any_json or schema.keys() & {"$ref", "type", "oneOf", "allOf"}, name
        if schema.get("type") == "object":
            assert components.get(name) is schema, name
            assert schema.get("properties") or name == "Headers", name  # of any names
    for name, schema in components.items():
        alternatives = schema.get("oneOf", [])
        assert all("$ref" in alternative for alternative in alternatives), name
        assert len(alternatives) in (0, 3), name


def test_the_bodies_of_schedules_are_told_apart_by_what_they_require(spec: dict[str, Any]) -> None:
    for body in ("NewJob", "NewSchedule", "ScheduleSettings", "Preview"):
        alternatives = [
            resolve(spec, part) for part in spec["components"]["schemas"][body]["oneOf"]
        ]
        for chosen in alternatives:
            assert chosen["additionalProperties"] is False
            if body == "NewJob":
                continue  # by their schedule_type
            (timing,) = set(chosen["required"]) & set(schedules.TIMINGS)
            assert [timing in other["properties"] for other in alternatives].count(True) == 1


def test_nothing_is_filtered_unless_asked(spec: dict[str, Any]) -> None:
    """What has an example or a default in the document is filled in by "Try it out"."""
    for name in OPERATIONS:
        assert request_url(spec, name).split("?")[1] in ("", "limit=50"), name


def test_the_documented_fields_are_the_accepted_ones(spec: dict[str, Any]) -> None:
    schemas = spec["components"]["schemas"]

    def documented(schema: str) -> set[str]:
        return set(schemas[schema]["properties"])

    assert documented("OneTimeJob") == {"schedule_type", *jobs.ONE_TIME} == set(jobs.BULK_ITEM)
    assert documented("IntervalJob") == {"schedule_type", *jobs.INTERVAL}
    assert documented("CronJob") == {"schedule_type", *jobs.CRON}
    timings = {"Cron": "cron", "Interval": "interval_seconds", "Calendar": "every"}
    assert set(timings.values()) == set(schedules.TIMINGS)
    for word, timing in timings.items():
        settings = {timing, *schedules.OPTIONS}
        assert documented(f"{word}Settings") == settings
        assert documented(f"New{word}Schedule") == settings | set(schedules.NAME)
        assert documented(f"{word}Preview") == {timing, *schedules.PREVIEW}
    assert documented("Claim") == set(work.CLAIM | work.WAIT)
    assert documented("ClaimFromQueues") == set(work.CLAIM | work.WAIT | work.QUEUES)
    assert documented("ClaimNext") == set(work.CLAIM_NEXT)
    assert documented("Finish") == {*work.FINISH, "claim_next"}
    assert documented("JobToFinish") == set(work.FINISHED_JOB)
    assert documented("Heartbeat") == set(work.HEARTBEAT)
    assert documented("JobHeld") == set(work.HELD_JOB)
    assert documented("Release") == set(work.RELEASE)
    assert documented("NewNode") == set(workflows.NODE)
    assert documented("StepToRecord") == set(steps.RECORD)
    assert documented("Sleep") == set(steps.SLEEP)
    assert documented("Await") == set(steps.AWAIT)
    assert documented("NewEvent") == set(steps.EVENT)
    assert documented("Range") == set(schedules.RANGE)
    assert documented("QueueSettings") == set(queues.SETTINGS)
    assert documented("KeySettings") == set(queues.LIMITS)
    assert len(schemas["NewJob"]["oneOf"]) == len(jobs.KINDS)


def test_the_documented_words_are_the_database_s(conn: Connection, spec: dict[str, Any]) -> None:
    for domain, schema in (("job_state", "State"), ("schedule_type", "ScheduleType")):
        for word in spec["components"]["schemas"][schema]["enum"]:
            conn.execute(f"select %s::rota.{domain}", [word])
    outcomes = spec["components"]["schemas"]["Outcome"]["enum"]
    for word in set(outcomes) - {"RUNNING"}:
        conn.execute("select %s::rota.execution_outcome", [word])


def test_the_page_is_a_current_swagger_ui(client: FlaskClient) -> None:
    bundle = client.get("/apidocs/swagger-ui-bundle.js")

    assert bundle.status_code == 200
    assert int(version("flask-swagger-ui").split(".")[0]) >= 5
    assert b"3.28" not in bundle.data[:200]
    assert client.get("/apidocs/").status_code == 200


def test_nothing_of_the_old_swagger_ui_is_served(client: FlaskClient) -> None:
    for path in (
        "/flasgger_static/swagger-ui-bundle.js",
        "/static/swagger-ui-bundle.js",
        "/oauth2-redirect.html",
        "/apidocs/oauth2-redirect.html",
        "/apidocs/swagger-ui-standalone-preset.js",
        "/apidocs/..%2f__init__.py",
        "/apidocs/index.html",
        "/apispec_1.json",
    ):
        assert client.get(path).status_code == 404, path


def test_every_answer_is_protected(client: FlaskClient) -> None:
    for path in ("/apidocs/", "/apidocs/page.js", "/apispec.json", "/jobs", "/nowhere"):
        headers = client.get(path).headers

        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self'"), path
        assert "unsafe" not in policy and "script-src" not in policy, path
        assert "frame-ancestors 'none'" in policy, path
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["X-Frame-Options"] == "DENY", path
    assert "<script>" not in client.get("/apidocs/").text
