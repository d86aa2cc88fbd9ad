"""Tokens over HTTP: who is asked for one, what is answered without, and where one may appear."""

import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from rota.app import create_app, tokens
from rota.db.embedded import Cluster
from rota.db.gateway import call
from tests.api.conftest import Server

UNAUTHORIZED = {
    "code": "HTTP401",
    "message": "this needs a valid token",
    "detail": None,
    "hint": "Send it as Authorization: Bearer TOKEN. `rota token create` makes one.",
}


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the API remember no token."""
    monkeypatch.setattr(tokens, "REMEMBERED_SECONDS", -1.0)


def make(conn: Connection, principal: str = "rota_operator", **options: Any) -> dict[str, Any]:
    return call(conn, "create_token", principal=principal, **options)[0]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_without_any_token_in_the_database_this_machine_needs_none(client: FlaskClient) -> None:
    assert client.get("/jobs").status_code == 200
    assert client.post("/jobs", json={"task": "t"}).status_code == 201


@pytest.mark.parametrize("peer", ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1", "", "localhost"])
def test_without_any_token_in_the_database_no_other_machine_is_served(
    client: FlaskClient, peer: str
) -> None:
    answer = client.get("/jobs", environ_base={"REMOTE_ADDR": peer})

    assert (answer.status_code, answer.json) == (401, UNAUTHORIZED)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_has_many_addresses(client: FlaskClient, peer: str) -> None:
    assert client.get("/jobs", environ_base={"REMOTE_ADDR": peer}).status_code == 200


def test_a_token_that_is_wrong_is_refused_also_where_none_is_needed(client: FlaskClient) -> None:
    assert client.get("/jobs", headers=bearer("rota_x")).status_code == 401


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer rota_" + 43 * "x",
        "Bearer " + 5000 * "x",
        "Bearer \xff\xe9",
        "Basic YTpi",
        "{prefix}",
        "Bearer {prefix}",
        "Bearer {token} x",
        "Bearer {token},Bearer {token}",
        "Bearer {hash}",
        "Token {token}",
        "{token}",
    ],
)
def test_what_is_no_valid_token_is_refused_in_the_same_words(
    client: FlaskClient, conn: Connection, forgetful: None, authorization: str | None
) -> None:
    token = make(conn)["token"]
    (digest,) = conn.execute("select encode(hash, 'hex') from rota.api_tokens").fetchone() or ()
    headers = {}
    if authorization is not None:
        filled = authorization.replace("{token}", token).replace("{hash}", digest)
        headers["Authorization"] = filled.replace("{prefix}", token[:12])

    for path in ("/jobs", "/queues/q", "/no/such/path", "/jobs/99999999999999999999"):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.json) == (401, UNAUTHORIZED), path
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_valid_token_is_taken(
    client: FlaskClient, conn: Connection, scheme: str, forgetful: None
) -> None:
    token = make(conn)["token"]

    assert client.get("/jobs", headers={"Authorization": f"{scheme} {token}"}).status_code == 200
    assert client.get("/no/such/path", headers=bearer(token)).status_code == 404


def test_a_wrong_token_is_refused_before_the_body_is_read(
    client: FlaskClient, conn: Connection
) -> None:
    make(conn)

    answer = client.post("/jobs", data=b"{", content_type="text/plain")

    assert (answer.status_code, answer.json) == (401, UNAUTHORIZED)


@pytest.mark.parametrize(
    "path", ["/health/live", "/health/ready", "/", "/apidocs/", "/apidocs/page.js", "/apispec.json"]
)
def test_health_and_documentation_ask_nobody(
    client: FlaskClient, conn: Connection, path: str, forgetful: None
) -> None:
    make(conn)

    for headers in ({}, bearer("wrong")):
        assert client.get(path, headers=headers).status_code in (200, 302)
        away = client.get(path, headers=headers, environ_base={"REMOTE_ADDR": "192.0.2.7"})
        assert away.status_code in (200, 302)


def test_the_first_token_closes_a_running_api_and_a_revoked_one_is_refused_at_once(
    server: Server, conn: Connection
) -> None:
    assert server.request("GET", "/jobs").status == 200
    made = make(conn)
    closed = server.request("GET", "/jobs")
    assert (closed.status, closed.json) == (401, UNAUTHORIZED)

    sent = bearer(made["token"])
    assert server.request("GET", "/jobs", **sent).status == 200
    call(conn, "revoke_token", token_id=made["token_id"])
    refused = server.request("GET", "/jobs", **sent)
    assert (refused.status, refused.json) == (401, UNAUTHORIZED)
    assert server.request("POST", "/jobs", {"task": "t"}, **sent).status == 401
    assert call(conn, "enqueue_job", task="t")[0]["job_id"] == 1
    assert server.request("GET", "/health/ready").status == 200


def test_a_token_that_runs_out_is_refused_at_once(
    client: FlaskClient, conn: Connection, clock: Any
) -> None:
    (in_an_hour,) = conn.execute("select rota._now() + interval '1 hour'").fetchone()
    sent = bearer(make(conn, expires_at=in_an_hour)["token"])

    assert client.get("/jobs", headers=sent).status_code == 200
    clock.advance(timedelta(hours=1))
    assert client.get("/jobs", headers=sent).status_code == 401


def test_a_token_is_looked_up_once_in_some_seconds(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = bearer(make(conn)["token"])
    database = client.application.extensions["database"]
    looks: list[None] = []
    look = database.own_transaction
    monkeypatch.setattr(database, "own_transaction", lambda: looks.append(None) or look())

    for _ in range(20):
        assert client.get("/workers", headers=sent).status_code == 200

    assert len(looks) == 1


def test_what_is_remembered_is_bounded(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MOST_REMEMBERED", 3)
    known = client.application.extensions["principals"]._known

    for number in range(10):
        assert client.get("/jobs", headers=bearer(make(conn)["token"])).status_code == 200
        assert client.get("/jobs", headers=bearer(f"wrong {number}")).status_code == 401
        assert len(known) <= 3


def test_who_may_not_look_up_tokens_is_told_what_to_grant(
    db: str, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    token = make(conn)["token"]
    app = create_app(make_conninfo(db, options="-c role=rota_operator"))

    answer = app.test_client().get("/jobs", headers=bearer(token))
    ready = app.test_client().get("/health/ready")

    assert (answer.status_code, ready.status_code) == (503, 503)
    assert "grant it rota_api" in caplog.text and "grant it rota_api" in ready.json["message"]
    assert app.test_client().get("/jobs").status_code == 401
    app.extensions["database"].close()


def test_a_principal_that_is_not_granted_to_the_login_is_named_in_the_log_only(
    client: FlaskClient, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    conn.execute("create role someone_who_goes")
    sent = bearer(make(conn, "someone_who_goes")["token"])
    assert client.get("/jobs", headers=sent).status_code == 403
    conn.execute("drop role someone_who_goes")

    answer = client.get("/jobs", headers=sent)

    assert answer.status_code == 403
    assert "someone_who_goes" not in answer.text
    assert "someone_who_goes" in [
        r.fields.get("principal") for r in caplog.records if "fields" in vars(r)
    ]


def outward_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return probe.getsockname()[0]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "outward"])
def test_without_a_token_the_api_does_not_listen_to_others_and_says_how_to_go_on(
    db: str, start_server: Callable[..., Server], host: str
) -> None:
    server = start_server(db, wait=False, HOST=outward_address() if host == "outward" else host)

    assert server.process.wait(timeout=30) == 1
    (line,) = server.log_lines()
    assert "there is no token yet" in line["message"]
    assert "rota token create" in line["message"] and "HOST=127.0.0.1" in line["message"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_without_a_token_the_api_listens_on_this_machine(
    db: str, start_server: Callable[..., Server], host: str
) -> None:
    server = start_server(db, wait=False, HOST=host)
    server.wait_until(lambda: "serving http" in server.log_text())


def test_with_a_token_the_api_listens_to_others_and_asks_each_for_it(
    client: FlaskClient, conn: Connection
) -> None:
    token = make(conn)["token"]

    assert tokens.refusal_to_listen(client.application, "0.0.0.0") is None
    away = {"environ_base": {"REMOTE_ADDR": "192.0.2.7"}}
    assert client.get("/health/live", **away).status_code == 200
    assert client.get("/jobs", **away).status_code == 401
    assert client.get("/jobs", **away, headers=bearer(token)).status_code == 200


def test_where_nobody_else_gets_to_the_api_serves_all_until_there_is_a_token(
    db: str, conn: Connection, monkeypatch: pytest.MonkeyPatch, forgetful: None
) -> None:
    monkeypatch.setenv("DATABASE_URL", db)
    monkeypatch.setenv("ROTA_WITHOUT_TOKEN", "serve")
    app = create_app()
    away = {"environ_base": {"REMOTE_ADDR": "192.0.2.7"}}

    assert tokens.refusal_to_listen(app, "0.0.0.0") is None
    assert app.test_client().get("/jobs", **away).status_code == 200
    token = make(conn)["token"]
    assert app.test_client().get("/jobs", **away).status_code == 401
    assert app.test_client().get("/jobs", **away, headers=bearer(token)).status_code == 200


def test_what_is_done_without_a_token_is_chosen_by_one_of_two_words(
    db: str, start_server: Callable[..., Server]
) -> None:
    server = start_server(db, wait=False, ROTA_WITHOUT_TOKEN="yes")

    assert server.process.wait(timeout=30) == 1
    assert "ROTA_WITHOUT_TOKEN is 'refuse' or 'serve', not 'yes'" in server.log_text()


def test_a_token_is_in_no_log_error_or_page(
    db: str, conn: Connection, start_server: Callable[..., Server], cluster: Any
) -> None:
    """Neither those of the API, nor those of the server, however much it is told to log."""
    valid, wrong = make(conn)["token"], "rota_canary" + 40 * "y"
    with psycopg.connect(db, autocommit=True) as one:
        name = one.info.dbname
        one.execute(f"alter database {name} set log_min_duration_statement = 0")
        one.execute(f"alter database {name} set log_parameter_max_length_on_error = -1")
    server = start_server(db)
    told = []

    for token in (valid, wrong):
        for method, url, body in (
            ("GET", "/jobs", None),
            ("GET", "/jobs/7", None),
            ("POST", "/jobs", {"task": 5}),
            ("POST", "/jobs/7/cancel", None),
            ("GET", "/apispec.json", None),
            ("GET", "/no/such/page", None),
            ("BREW", "/jobs", None),
        ):
            answer = server.request(method, url, body, **bearer(token))
            told.append(f"{answer.headers}{answer.body!r}")
    queries = conn.execute("select query from pg_stat_activity").fetchall()
    server.stop()

    everything = "\n".join([*told, str(queries), server.log_text()])
    assert valid[5:] not in everything and wrong[5:] not in everything
    if isinstance(cluster, Cluster):
        log = cluster.log.read_text(errors="replace")
        assert "authenticate_token" in log
        assert valid[5:] not in log and wrong[5:] not in log


def test_refusals_take_the_same_time(
    client: FlaskClient, conn: Connection, forgetful: None
) -> None:
    """Each is one look in the database, whether there is such a token or not."""
    revoked, expired = make(conn), make(conn)
    call(conn, "revoke_token", token_id=revoked["token_id"])
    conn.execute(
        "update rota.api_tokens set created_at = '2020-01-01', expires_at = '2020-01-02'"
        " where token_id = %s",
        [expired["token_id"]],
    )
    sent = {
        "missing": {},
        "unknown": bearer("rota_" + 43 * "x"),
        "revoked": bearer(revoked["token"]),
        "expired": bearer(expired["token"]),
    }
    took: dict[str, list[float]] = {name: [] for name in sent}
    for _ in range(200):
        for name, headers in sent.items():
            began = time.perf_counter()
            assert client.get("/jobs", headers=headers).status_code == 401
            took[name].append(time.perf_counter() - began)

    # The shortest, which other programs on this machine make no longer.
    shortest = {name: min(times) for name, times in took.items()}
    assert max(shortest.values()) < 1.5 * min(shortest.values()), shortest


@pytest.fixture
def stopped_database() -> Iterator[FlaskClient]:
    app = create_app("postgresql://127.0.0.1:9/nowhere")
    yield app.test_client()
    app.extensions["database"].close()


def test_nobody_is_let_in_while_the_database_is_away(stopped_database: FlaskClient) -> None:
    for headers in ({}, bearer("x")):
        assert stopped_database.get("/jobs", headers=headers).status_code == 503
