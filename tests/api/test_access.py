"""Who may do what over HTTP: every operation, with real tokens, against a checked-in table."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from rota.app import create_app
from rota.app.database import ForeignRoleError
from rota.db.gateway import call
from tests.api.documentation import OPERATIONS, operation, request_url, requests, responses

TABLE = Path(__file__).with_name("expected_access.txt")
HEADING = """\
What each operation answers to whom: ok, no right (403), who are you (401), or - where it asks
nobody. Written by WRITE_EXPECTED_ACCESS=1 pytest tests/api/test_access.py.
"""
SCOPES = ("producer", "worker", "operator", "reader")
STRANGERS = ("none", "wrong", "expired", "revoked")
LOGIN = "login_of_the_api"  # a small one: it may look up tokens, and become who they stand for


@pytest.fixture
def tokens(conn: Connection) -> Iterator[dict[str, str | None]]:
    """A token of a principal with each scope, and those that are not valid."""
    conn.execute(f"drop role if exists {LOGIN}")
    conn.execute(f"create role {LOGIN} login noinherit in role rota_api")
    made: dict[str, str | None] = {"none": None, "wrong": "rota_" + 43 * "x"}
    try:
        for scope in SCOPES:
            principal = f"principal_with_{scope}"
            conn.execute(f"create role {principal} nologin in role rota_{scope}")
            option = "with inherit false" if conn.info.server_version >= 160000 else ""
            conn.execute(f"grant {principal} to {LOGIN} {option}")
            (token,) = call(conn, "create_token", principal=principal)
            made[scope] = token["token"]
        for ending in ("expired", "revoked"):
            (token,) = call(conn, "create_token", principal="principal_with_operator")
            made[ending] = token["token"]
            if ending == "revoked":
                call(conn, "revoke_token", token_id=token["token_id"])
            else:
                conn.execute(
                    "update rota.api_tokens"
                    " set created_at = '2020-01-01', expires_at = '2020-01-02'"
                    " where token_id = %s",
                    [token["token_id"]],
                )
        yield made
    finally:
        for role in (LOGIN, *(f"principal_with_{scope}" for scope in SCOPES)):
            conn.execute(f"drop role if exists {role}")


@pytest.fixture
def small_client(db: str, tokens: Any) -> Iterator[FlaskClient]:
    """The API, with a login that has no rights of its own."""
    app = create_app(make_conninfo(db, user=LOGIN))
    yield app.test_client()
    app.extensions["database"].close()


def headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def test_each_operation_is_open_to_whom_the_table_says(
    small_client: FlaskClient, conn: Connection, tokens: dict[str, str | None]
) -> None:
    spec = small_client.get("/apispec.json").json
    heads = " ".join(f"{who:8}" for who in (*SCOPES, *STRANGERS))
    lines = [HEADING, f"{'':36} {heads}".rstrip()]
    for name in OPERATIONS:
        shown = responses(spec, name)
        cells = []
        for who in (*SCOPES, *STRANGERS):
            answer = small_client.open(
                request_url(spec, name),
                method=name.split()[0],
                json=requests(spec, name)[0],
                headers=headers(tokens[who]),
            )
            assert str(answer.status_code) in shown, (name, who, answer.text)
            examples = shown["403"]["content"]["application/json"].get("examples")
            if answer.status_code == 403:
                assert answer.json == examples["no_right"]["value"]
            word = {401: "401", 403: "403"}.get(answer.status_code, "ok")
            cells.append(word if operation(spec, name)["security"] else "-")
        lines.append(f"{name:36} " + " ".join(f"{cell:8}" for cell in cells).rstrip())
    found = "\n".join(lines) + "\n"
    if os.environ.get("WRITE_EXPECTED_ACCESS"):
        TABLE.write_text(found)

    assert found == TABLE.read_text()


def test_the_scopes_that_are_documented_are_those_of_the_table(small_client: FlaskClient) -> None:
    spec = small_client.get("/apispec.json").json
    rows = [line for line in TABLE.read_text().splitlines() if line[:36].strip() in OPERATIONS]

    assert [row[:36].strip() for row in rows] == list(OPERATIONS)
    for row in rows:
        name, cells = row[:36].strip(), row[36:].split()
        allowed = [scope for scope, cell in zip(SCOPES, cells, strict=False) if cell == "ok"]
        assert operation(spec, name).get("x-scopes", []) == allowed, name


def test_what_a_principal_may_not_do_is_not_done(
    small_client: FlaskClient, conn: Connection, tokens: dict[str, str | None]
) -> None:
    (job,) = call(conn, "enqueue_job", task="t")

    for who in ("producer", "worker", "reader", *STRANGERS):
        path = f"/jobs/{job['job_id']}/cancel"
        answer = small_client.post(path, headers=headers(tokens[who]))
        assert answer.status_code in (401, 403)

    assert conn.execute("select state from rota.jobs").fetchall() == [("SCHEDULED",)]


def test_every_statement_of_a_request_runs_as_its_principal_and_nothing_after_it(
    small_client: FlaskClient, conn: Connection, tokens: dict[str, str | None]
) -> None:
    for who in ("operator", "producer", "operator"):
        for path in ("/queues/a/pause", "/queues/b/resume", "/jobs"):
            body = {"task": "t"} if path == "/jobs" else {}
            small_client.patch("/queues/a", json={}, headers=headers(tokens[who]))
            small_client.post(path, json=body, headers=headers(tokens[who]))

    assert whoever_is_left(small_client) == {(LOGIN, "none")}
    actors = conn.execute("select distinct actor from rota.actions where queue is not null")
    assert actors.fetchall() == [("principal_with_operator",)]


@pytest.mark.parametrize("way", ["an error", "no right", "a role that is gone"])
def test_a_connection_comes_back_clean_after(
    way: str, small_client: FlaskClient, conn: Connection, tokens: dict[str, str | None]
) -> None:
    database = small_client.application.extensions["database"]
    digest = hashlib.sha256(tokens["reader"].encode()).digest()
    if way == "a role that is gone":
        conn.execute("update rota.api_tokens set principal = 'nobody_of_this_name'")
    statement = {"an error": "select 1 / 0", "no right": "select rota.maintain()"}.get(
        way, "select"
    )

    with pytest.raises((psycopg.Error, ForeignRoleError)), database.transaction(digest) as one:
        assert one.execute("select current_user").fetchone() == ("principal_with_reader",)
        one.execute(statement)

    with database.own_transaction():
        pass  # so that there is a connection again
    assert whoever_is_left(small_client) == {(LOGIN, "none")}


def whoever_is_left(client: FlaskClient) -> set[tuple[str, str]]:
    """Return under which roles the next transactions of the API would begin."""
    idle = list(client.application.extensions["database"]._idle)
    assert idle
    return {one.execute("select current_user, current_setting('role')").fetchone() for one in idle}


def test_the_small_login_is_ready_and_may_do_nothing_by_itself(
    small_client: FlaskClient, db: str, tokens: dict[str, str | None]
) -> None:
    ready = small_client.get("/health/ready")

    assert (ready.status_code, ready.json["status"]) == (200, "ready")
    with psycopg.connect(make_conninfo(db, user=LOGIN), autocommit=True) as own:
        for statement in ("select * from rota.jobs", "select rota.enqueue_job('t')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                own.execute(statement)
