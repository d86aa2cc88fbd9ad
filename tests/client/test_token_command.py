"""``rota token``: a role and its token made, listed, revoked; ROTA_TOKEN, for the deploy."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from rota.db.gateway import call
from rota.tokens import FIRST_PRINCIPAL, TokenError, ensure_token

PROJECT = Path(__file__).parents[2]
GIVEN = "a-token-that-somebody-chose-0123456789"

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def run(db: str) -> Run:
    """Run ``rota`` with these words; by a login if one is named."""

    def start(*words: str, user: str | None = None, **environment: str):
        url = make_conninfo(db, user=user) if user else db
        return subprocess.run(
            [sys.executable, "-m", "rota", *words],
            cwd=PROJECT,
            env=os.environ | {"DATABASE_URL": url} | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return start


@pytest.fixture
def name(conn: Connection) -> Iterator[Callable[[], str]]:
    """Give names of roles; what has one of them is dropped with the test."""
    given: list[str] = []

    def another() -> str:
        given.append(f"someone_{uuid4().hex[:20]}")
        return given[-1]

    yield another
    for role in (*reversed(given), "api_producer_reader", "api_worker", FIRST_PRINCIPAL):
        if conn.execute("select from pg_roles where rolname = %s", [role]).rowcount:
            conn.execute(f"drop owned by {role} cascade; drop role {role}")


def principal_of(conn: Connection, token: str) -> str | None:
    token_hash = hashlib.sha256(token.encode()).digest()
    return call(conn, "authenticate_token", hash=token_hash)[0]["authenticate_token"]


def scopes(conn: Connection, role: str) -> list[str]:
    return [
        scope
        for (scope,) in conn.execute(
            "select r.rolname from pg_roles as r"
            " where r.rolname like 'rota\\_%%' and r.rolname <> %(role)s"
            " and pg_has_role(%(role)s, r.oid, 'member') order by 1",
            {"role": role},
        )
    ]


def test_create_makes_a_role_and_prints_its_token_once(run, conn, name):
    name()
    made = run("token", "create", "--scope", "reader", "--scope", "producer", "--note", "the shop")

    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    assert principal_of(conn, token) == "api_producer_reader"
    assert scopes(conn, "api_producer_reader") == ["rota_producer", "rota_reader"]
    login = "select rolcanlogin from pg_roles where rolname = 'api_producer_reader'"
    assert conn.execute(login).fetchone() == (False,)
    assert token not in made.stderr
    listed = run("token", "list")
    assert token not in listed.stdout and token[:12] in listed.stdout
    assert "the shop" in listed.stdout and "valid" in listed.stdout


def test_a_second_token_of_a_role_takes_the_role_as_it_is(run, conn, name):
    role = name()
    first = run("token", "create", "--principal", role, "--scope", "worker")
    second = run("token", "create", "--principal", role, "--days", "30")

    assert principal_of(conn, first.stdout.strip()) == role
    assert principal_of(conn, second.stdout.strip()) == role
    assert scopes(conn, role) == ["rota_worker"]


def test_revoke_refuses_a_token_from_then_on(run, conn, name):
    token = run("token", "create", "--principal", name(), "--scope", "worker").stdout.strip()
    (token_id,) = conn.execute("select token_id from rota.tokens").fetchone()

    assert run("token", "revoke", str(token_id)).returncode == 0

    assert principal_of(conn, token) is None
    assert "revoked" in run("token", "list").stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("create",), "say what the token may do with --scope"),
        (("create", "--principal", "nobody_of_this_name"), "there is no role nobody_of_this_name"),
        (("create", "--scope", "reader", "--days", "0"), "--days must be from 1 to 36500"),
        (("create", "--principal", "postgres"), "is a superuser"),
        (("revoke", "7"), "there is no token 7"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line_and_nothing_is_left_behind(
    run, conn, name, words, complaint
):
    name()
    roles = conn.execute("select count(*) from pg_roles").fetchone()

    told = run("token", *words)

    assert told.returncode == 1
    assert complaint in told.stderr and "Traceback" not in told.stderr
    assert conn.execute("select count(*) from pg_roles").fetchone() == roles


def test_the_login_of_the_api_can_act_as_a_role_that_was_made(run, conn, db, name):
    api = name()
    conn.execute(f"create role {api} login noinherit in role rota_api")

    made = run("token", "create", "--scope", "worker")

    assert made.returncode == 0, made.stderr
    with psycopg.connect(make_conninfo(db, user=api)) as own:
        own.execute("set role api_worker")


def test_a_login_that_may_not_make_roles_is_told_what_to_have_run(run, conn, name):
    alice, role = name(), name()
    conn.execute(f"create role {alice} login in role rota_operator")

    told = run("token", "create", "--principal", role, "--scope", "reader", user=alice)

    assert told.returncode == 1
    statements = [line.strip() for line in told.stderr.splitlines() if line.startswith("    ")]
    assert len(statements) == 3
    for statement in statements:
        conn.execute(statement)
    again = run("token", "create", "--principal", role, "--scope", "reader", user=alice)
    assert principal_of(conn, again.stdout.strip()) == role


def test_an_owner_who_may_create_roles_makes_tokens_without_being_superuser(run, conn, name):
    """As in `rota run`."""
    owner, role = name(), name()
    conn.execute(f"create role {owner} login createrole")
    conn.execute(f"grant rota_reader to {owner} with admin option")
    conn.execute(f"grant rota_operator to {owner}")

    made = run("token", "create", "--principal", role, "--scope", "reader", user=owner)

    assert made.returncode == 0, made.stderr
    assert principal_of(conn, made.stdout.strip()) == role


def test_the_token_that_a_deploy_is_given_may_do_everything(run, conn, name):
    name()
    for _ in range(2):
        told = run("deploy", ROTA_TOKEN=GIVEN)
        assert told.returncode == 0, told.stderr
        assert GIVEN not in told.stdout + told.stderr

    assert principal_of(conn, GIVEN) == FIRST_PRINCIPAL
    assert len(scopes(conn, FIRST_PRINCIPAL)) == 4
    assert conn.execute("select count(*) from rota.tokens").fetchone() == (1,)


def test_the_deploy_says_what_a_login_of_the_api_lacks_that_is_older_than_tokens(
    run, conn, db, name
):
    """As in a volume of the compose stack that was made then."""
    api, worker = name(), name()
    conn.execute(f"create role {api} login in role rota_producer, rota_operator, rota_reader")
    conn.execute(f"create role {worker} login in role rota_worker")

    told = run("deploy", ROTA_TOKEN=GIVEN)

    assert told.returncode == 0, told.stderr
    assert f"If the API logs in as {api}," in told.stdout and worker not in told.stdout
    statements = [line.strip() for line in told.stdout.splitlines() if line.startswith("    ")]
    assert len(statements) == 2
    for statement in statements:
        conn.execute(statement)
    with psycopg.connect(make_conninfo(db, user=api)) as own:
        assert principal_of(own, GIVEN) == FIRST_PRINCIPAL
        own.execute(f"set role {FIRST_PRINCIPAL}")
    assert "If the API" not in ensure_token(db, GIVEN)


def test_who_makes_a_token_of_a_tenant_is_not_behind_its_walls_from_then_on(run, conn, db, name):
    alice, acme = name(), name()
    conn.execute(f"create role {alice} login createrole in role rota_operator")
    conn.execute(f"create role {acme} nologin in role rota_reader")
    is_16 = conn.info.server_version >= 160000
    if is_16:
        conn.execute(f"grant {acme} to {alice} with admin true, inherit false, set false")
    call(conn, "wall", principal=acme, queue_pattern="acme.*")

    made = run("token", "create", "--principal", acme, user=alice)

    if is_16:
        assert made.returncode == 0, made.stderr
    else:
        assert f"{alice} would be behind the walls of {acme}" in made.stderr
    with psycopg.connect(make_conninfo(db, user=alice)) as own:
        assert call(own, "visible_queues") == [{"visible_queues": None}]


def test_another_token_of_the_deploy_replaces_the_one_before(db, conn, name):
    name()
    ensure_token(db, GIVEN)
    ensure_token(db, GIVEN + "x")

    assert principal_of(conn, GIVEN) is None
    assert principal_of(conn, GIVEN + "x") == FIRST_PRINCIPAL


def test_a_deploy_does_not_bring_back_a_token_that_was_revoked(db, conn, name):
    name()
    ensure_token(db, GIVEN)
    (token_id,) = conn.execute("select token_id from rota.tokens").fetchone()
    call(conn, "revoke_token", token_id=token_id)

    with pytest.raises(TokenError, match="was revoked"):
        ensure_token(db, GIVEN)
    assert principal_of(conn, GIVEN) is None


@pytest.mark.parametrize("weak", ["x", "a" * 31, "a b" * 20, "ü" * 40, "a\n" * 20])
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused_without_being_shown(
    run, conn, name, weak
):
    name()
    told = run("deploy", ROTA_TOKEN=weak)

    assert told.returncode == 1
    assert "ROTA_TOKEN must have 32 characters" in told.stderr
    assert len(weak) < 5 or weak not in told.stdout + told.stderr
