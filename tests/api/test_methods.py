"""Every path takes the methods that are documented, and says so to all others."""

import http.client
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg import Connection

from rota.db.gateway import call
from tests.api.conftest import Answer, Server
from tests.api.documentation import OPERATIONS, request_url, responses

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "LINK")
PAGES = ("/", "/apidocs/", "/apidocs/page.js", "/apispec.json")


def paths(spec: dict[str, Any]) -> Iterator[tuple[str, set[str]]]:
    """Find every path, filled with its examples, and the methods that it takes."""
    for path, operations in spec["paths"].items():
        name = next(name for name in OPERATIONS if name.split()[1] == path)
        methods = {method.upper() for method in operations}
        yield request_url(spec, name).partition("?")[0], with_head(methods)
    for page in PAGES:
        yield page, {"GET", "HEAD"}


def with_head(methods: set[str]) -> set[str]:
    return methods | ({"HEAD"} if "GET" in methods else set())


def allowed(answer: Any) -> set[str]:
    return set(answer.headers["Allow"].split(", "))


def ask(server: Server, method: str, path: str, **headers: str) -> Answer:
    """Send a request without a body, and read what comes, be it a body or none."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def test_every_path_refuses_every_method_that_is_not_documented(server: Server) -> None:
    spec = server.request("GET", "/apispec.json").json
    found = list(paths(spec))

    assert len(found) == len(spec["paths"]) + len(PAGES)
    for path, methods in found:
        for method in METHODS:
            answer = ask(server, method, path)
            if method in methods:
                assert answer.status != 405, (method, path)
                continue
            assert answer.status == 405, (method, path, answer.status)
            assert allowed(answer) == methods, (method, path)
            assert method == "HEAD" or answer.json["code"] == "HTTP405", (method, path)


def test_every_documented_method_answers_as_documented_also_to_nothing(server: Server) -> None:
    spec = server.request("GET", "/apispec.json").json

    for name in OPERATIONS:
        method, path = name.split()[0], request_url(spec, name).partition("?")[0]
        answer = ask(server, method, path)
        shown = responses(spec, name)
        assert str(answer.status) in shown, (name, answer.status)
        if answer.status != 204:
            assert answer.headers.get_content_type() in shown[str(answer.status)]["content"], name


def test_head_is_get_without_the_body(server: Server) -> None:
    server.request("POST", "/jobs", {"task": "echo"})
    server.request("PUT", "/schedules/nightly", {"task": "echo", "cron": "@daily"})
    spec = server.request("GET", "/apispec.json").json

    for path, methods in paths(spec):
        if "GET" not in methods:
            continue
        got, head = ask(server, "GET", path), ask(server, "HEAD", path)
        assert head.body == b"", path
        for name in ("Content-Type", "Content-Length", "ETag", "Location", "Cache-Control"):
            assert head.headers[name] == got.headers[name], (path, name)
        assert head.status == got.status, path


def test_who_has_no_token_is_told_of_methods_only_where_nobody_is_asked(
    client: FlaskClient, conn: Connection
) -> None:
    conn.execute("create role somebody_of_methods")
    try:
        call(conn, "create_token", principal="somebody_of_methods")

        for path in ("/health/live", "/health/ready", "/apidocs/", "/apispec.json", "/"):
            answer = client.delete(path)
            assert (answer.status_code, allowed(answer)) == (405, {"GET", "HEAD"}), path
        for path in ("/jobs", "/jobs/1", "/schedules/a/pause", "/queues/a", "/workers", "/nowhere"):
            for method in ("PUT", "OPTIONS", "PROPFIND"):
                assert client.open(path, method=method).status_code == 401, (method, path)
    finally:
        conn.execute("drop owned by somebody_of_methods; drop role somebody_of_methods")


@pytest.mark.parametrize("verb", ["pause", "resume", "trigger", "backfill"])
def test_a_slash_that_is_escaped_belongs_to_the_name_of_a_schedule(
    client: FlaskClient, verb: str
) -> None:
    settings = {"task": "echo", "interval_seconds": 3600}

    for method in ("GET", "PUT", "DELETE", "PATCH"):
        answer = client.open(f"/schedules/a/{verb}", method=method, json=settings)
        assert (answer.status_code, allowed(answer)) == (405, {"POST"}), method
    made = client.put(f"/schedules/a%2F{verb}", json=settings)
    posted = client.post(f"/schedules/a%2f{verb}")

    assert (made.status_code, made.headers["Location"]) == (201, f"/schedules/a%2F{verb}")
    assert client.get(f"/schedules/a%2f{verb}").json["name"] == f"a/{verb}"
    assert (posted.status_code, allowed(posted)) == (405, {"GET", "HEAD", "PUT", "DELETE"})
    assert client.post(f"/schedules/a%2F{verb}/pause").status_code == 200
    assert client.get("/schedules/a").status_code == 404


@pytest.mark.parametrize("verb", ["pause", "resume", "claim"])
def test_a_slash_that_is_escaped_belongs_to_the_name_of_a_queue(
    client: FlaskClient, verb: str
) -> None:
    for method in ("GET", "PATCH", "DELETE", "PUT"):
        answer = client.open(f"/queues/a/{verb}", method=method, json={})
        assert (answer.status_code, allowed(answer)) == (405, {"POST"}), method

    made = client.patch(f"/queues/a%2F{verb}", json={"max_retries": 1})

    assert (made.status_code, made.json["queue"]) == (200, f"a/{verb}")
    assert client.get(f"/queues/a%2f{verb}").json["max_retries"] == 1
    assert client.post(f"/queues/a%2F{verb}/pause").json["queue"] == f"a/{verb}"
    assert client.post(f"/queues/a%2F{verb}").status_code == 405
    assert client.delete(f"/queues/a%2F{verb}").status_code == 204


def test_a_slash_before_keys_ends_the_name_of_a_queue(client: FlaskClient) -> None:
    for method in ("PATCH", "DELETE", "POST"):
        answer = client.open("/queues/a/keys", method=method, json={})
        assert (answer.status_code, allowed(answer)) == (405, {"GET", "HEAD"}), method
    answer = client.get("/queues/a/keys/b/keys")
    assert (answer.status_code, allowed(answer)) == (405, {"PATCH", "DELETE"})
    for path in ("/queues/a/keys/", "/queues/a/", "/queues/a%2Fkeys/"):
        assert client.patch(path, json={"max_running": 1}).status_code == 404, path
    assert client.get("/queues").json["queues"] == []

    assert client.patch("/queues/keys/keys/keys", json={"max_running": 1}).json["key"] == "keys"
    assert client.patch("/queues/a%2Fkeys", json={}).json["queue"] == "a/keys"
    assert client.patch("/queues/a%2Fkeys%2F", json={}).json["queue"] == "a/keys/"
    assert client.patch("/queues/a/keysmith", json={}).json["queue"] == "a/keysmith"


def test_other_escapes_in_a_path_mean_what_they_stand_for(client: FlaskClient) -> None:
    client.post("/jobs", json={"task": "echo"})

    assert client.get("/%6Aobs/%31").json["id"] == 1
    assert client.get("/jobs%2F1").status_code == 404
    assert client.get("/queues/d%65fault").json["queue"] == "default"
    assert client.get("/queues/a%2Fb%FF").status_code == 404
