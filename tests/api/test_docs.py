"""The documentation is complete, its examples work, and its page is the current Swagger UI."""

import re
from importlib.metadata import version
from typing import Any

import jsonschema
import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from app import create_app, jobs, queues, schedules

# The order is the life of a job, so that each example finds what it needs.
OPERATIONS = [
    "POST /jobs",
    "POST /jobs/bulk",
    "GET /jobs",
    "GET /jobs/{job_id}",
    "GET /jobs/{job_id}/executions",
    "POST /jobs/{job_id}/cancel",
    "POST /jobs/{job_id}/retry",
    "POST /schedules",
    "GET /schedules",
    "GET /schedules/{name}",
    "PUT /schedules/{name}",
    "POST /schedules/{name}/pause",
    "POST /schedules/{name}/resume",
    "POST /schedules/{name}/trigger",
    "POST /schedules/{name}/backfill",
    "DELETE /schedules/{name}",
    "POST /schedules/preview",
    "GET /queues",
    "GET /queues/{queue}",
    "POST /queues/{queue}/pause",
    "POST /queues/{queue}/resume",
    "PATCH /queues/{queue}",
    "DELETE /queues/{queue}",
    "GET /workers",
    "GET /health/live",
    "GET /health/ready",
]


@pytest.fixture
def spec(client: FlaskClient) -> dict[str, Any]:
    return client.get("/apispec.json").json


def operation(spec: dict[str, Any], name: str) -> dict[str, Any]:
    method, path = name.split()
    return spec["paths"][path][method.lower()]


def resolve(spec: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in item:
        reference = item["$ref"].removeprefix("#/").split("/")
        item = spec
        for key in reference:
            item = item[key]
    return item


def as_json_schema(schema: Any) -> Any:
    """Say "nullable" in the words of JSON Schema."""
    if isinstance(schema, list):
        return [as_json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: as_json_schema(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") else plain


def examples(spec: dict[str, Any], name: str) -> list[Any]:
    """Return the bodies that the documentation offers; one None where there is no body."""
    body = operation(spec, name).get("requestBody")
    if body is None:
        return [None]
    content = body["content"]["application/json"]
    if "example" in content:
        return [content["example"]]
    return [example["value"] for example in content["examples"].values()]


def request_url(spec: dict[str, Any], name: str) -> str:
    """Return the path and query of an operation, filled with the documented examples."""
    path, query = name.split()[1], {}
    for parameter in operation(spec, name).get("parameters", []):
        parameter = resolve(spec, parameter)
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
        elif "example" in parameter:
            query[parameter["name"]] = parameter["example"]
    return path + "?" + "&".join(f"{key}={value}" for key, value in query.items())


def documented_path(rule: str) -> str:
    """Write Flask's ``/jobs/<id:job_id>`` as OpenAPI's ``/jobs/{job_id}``."""
    return re.sub("<(?:[^<>:]*:)?([^<>]*)>", r"{\1}", rule)


def test_every_route_is_documented(client: FlaskClient, spec: dict[str, Any]) -> None:
    routes = {
        f"{method} {documented_path(rule.rule)}"
        for rule in client.application.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if not rule.endpoint.startswith(("docs.", "flasgger."))
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


def test_every_documented_example_works(client: FlaskClient, spec: dict[str, Any]) -> None:
    client.patch("/queues/old-mail", json={})
    for name in OPERATIONS:
        for body in examples(spec, name):
            answer = client.open(request_url(spec, name), method=name.split()[0], json=body)

            assert answer.status_code < 300, (name, body, answer.text)
            responses = operation(spec, name)["responses"]
            response = resolve(spec, responses[str(answer.status_code)])
            if answer.status_code == 204:
                assert "content" not in response and not answer.data, name
                continue
            schema = response["content"]["application/json"]["schema"]
            jsonschema.validate(
                answer.json, as_json_schema(schema | {"components": spec["components"]})
            )


def test_the_api_needs_no_more_than_two_roles(db: str) -> None:
    producer, operator = (
        create_app(make_conninfo(db, options=f"-c role={role}"))
        for role in ("rota_producer", "rota_operator")
    )
    spec = operator.test_client().get("/apispec.json").json
    operator.test_client().patch("/queues/old-mail", json={})

    for name in OPERATIONS:
        app = producer if name in ("POST /jobs", "POST /jobs/bulk") else operator
        for body in examples(spec, name):
            answer = app.test_client().open(
                request_url(spec, name), method=name.split()[0], json=body
            )

            assert answer.status_code < 300, (name, answer.text)
    for app in (producer, operator):
        app.extensions["database"].close()


def test_the_documented_fields_are_the_accepted_ones(spec: dict[str, Any]) -> None:
    schemas = spec["components"]["schemas"]

    def documented(schema: str) -> set[str]:
        return set(schemas[schema]["properties"])

    assert documented("OneTimeJob") == {"schedule_type", *jobs.ONE_TIME} == set(jobs.BULK_ITEM)
    assert documented("IntervalJob") == {"schedule_type", *jobs.INTERVAL}
    assert documented("CronJob") == {"schedule_type", *jobs.CRON}
    settings = {*schedules.TIMINGS, *schedules.OPTIONS}
    assert documented("ScheduleSettings") == settings
    assert documented("NewSchedule") == settings | set(schedules.NAME)
    assert documented("Preview") == {*schedules.TIMINGS, *schedules.PREVIEW}
    assert documented("QueueSettings") == set(queues.SETTINGS)
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
    assert client.get("/").headers["Location"] == "/apidocs/"


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
