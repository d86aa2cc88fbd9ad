"""Tokens: made once, shown once, found by their hash, refused when they should be."""

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg import Connection, sql

from rota.db.gateway import call
from tests.concurrency.sessions import sqlstate

Role = Callable[..., str]


@pytest.fixture
def role(conn: Connection) -> Iterator[Role]:
    """Make roles; they are dropped with the test."""
    made: list[str] = []

    def make(options: str = "nologin") -> str:
        name = f"someone_{uuid4().hex[:20]}"
        conn.execute(sql.SQL("create role {} ").format(sql.Identifier(name)).as_string() + options)
        made.append(name)
        return name

    yield make
    conn.execute("reset role")
    for name in reversed(made):
        conn.execute(f"drop owned by {name} cascade; drop role {name}")


def make(conn: Connection, principal: str, **options) -> str:
    return call(conn, "create_token", principal=principal, **options)[0]["token"]


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def authenticate(conn: Connection, token: str) -> str | None:
    return call(conn, "authenticate_token", hash=digest(token))[0]["authenticate_token"]


def tokens(conn: Connection) -> list[dict]:
    with conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute("select * from rota.tokens order by token_id").fetchall()


def test_a_token_stands_for_its_principal(conn, role):
    principal = role()

    token = make(conn, principal, note="the shop")

    assert re.fullmatch(r"rota_[-\w]{43}", token)
    assert authenticate(conn, token) == principal
    (listed,) = tokens(conn)
    assert (listed["principal"], listed["note"]) == (principal, "the shop")
    assert token.startswith(listed["prefix"]) and len(listed["prefix"]) == 12
    assert listed["created_by"] == "postgres" and listed["revoked_at"] is None


def test_a_thousand_tokens_have_nothing_in_common(conn, role):
    principal = role()

    made = [
        token.removeprefix("rota_")
        for (token,) in conn.execute(
            "select (rota.create_token(%s)).token from generate_series(1, 1000)", [principal]
        )
    ]

    assert len(set(made)) == 1000
    assert all(len({token[place] for token in made}) > 50 for place in range(42))


def test_what_is_stored_gives_nobody_a_token(conn, role):
    token = make(conn, role(), note="x")

    conn.execute("set bytea_output = 'hex'")
    rows = conn.execute("select t::text from rota.api_tokens as t").fetchall()
    rows += conn.execute("select a::text from rota.action_log as a").fetchall()

    assert len(rows) == 2
    assert not [row for (row,) in rows if token[12:] in row or token[:20] in row]
    assert digest(token).hex() in rows[0][0]
    assert digest(token).hex() not in rows[1][0]


@pytest.mark.parametrize(
    "ending",
    ["unknown", "expired", "revoked", "gone", "superuser", "owner"],
)
def test_a_token_that_is_not_valid_is_answered_with_nothing(conn, clock, role, ending):
    principal = role()
    (made,) = call(
        conn,
        "create_token",
        principal=principal,
        expires_at=conn.execute("select rota._now() + interval '1 hour'").fetchone()[0],
    )
    token = made["token"]
    assert authenticate(conn, token) == principal

    if ending == "unknown":
        token = token[:-1] + ("A" if token[-1] != "A" else "B")
    elif ending == "expired":
        clock.advance(timedelta(hours=1))
    elif ending == "revoked":
        call(conn, "revoke_token", token_id=made["token_id"])
    elif ending == "gone":
        conn.execute(f"alter role {principal} rename to {principal}_x")
    elif ending == "superuser":
        conn.execute(f"alter role {principal} superuser")
    else:
        conn.execute(f"grant postgres to {principal}")

    assert authenticate(conn, token) is None
    if ending == "gone":
        conn.execute(f"alter role {principal}_x rename to {principal}")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("superuser", "is a superuser"),
        ("createrole", "may create roles"),
        ("bypassrls", "passes by row security"),
        ("replication", "may replicate"),
        ("in role rota_api", "looks up tokens"),
        ("in role postgres", "postgres, which is a superuser"),
    ],
)
def test_no_token_is_made_for_a_role_with_powers(conn, role, options, word):
    principal = role(options)
    member = role(f"in role {principal}")

    for name in (principal, member):
        with pytest.raises(psycopg.Error, match=word) as caught:
            make(conn, name)
        assert caught.value.sqlstate == "RTP01"


def test_no_token_is_made_for_who_owns_the_schema(conn, role):
    owner = role()
    conn.execute(f"alter schema rota owner to {owner}")

    with sqlstate("RTP01"):
        make(conn, owner)

    conn.execute("alter schema rota owner to postgres")


def test_who_makes_a_token_could_be_its_principal_already(conn, connect, role):
    """Else an operator would be whoever he likes: a token gives all that its principal may."""
    alice, bob = role("in role rota_operator"), role("in role rota_producer")
    one = connect(alice)

    with sqlstate("RTP01"):
        make(one, bob)
    with sqlstate("RTP01"):
        make(one, "rota_worker")

    assert authenticate(conn, make(one, alice)) == alice
    assert authenticate(conn, make(one, "rota_operator")) == "rota_operator"
    conn.execute(f"grant {bob} to {alice}")
    assert authenticate(conn, make(one, bob)) == bob
    assert {token["created_by"] for token in tokens(conn)} == {alice}


def test_tokens_of_others_are_neither_seen_nor_revoked(conn, connect, role):
    alice, bob = role("in role rota_operator"), role("in role rota_operator")
    (of_bob,) = call(conn, "create_token", principal=bob)
    (of_alice,) = call(conn, "create_token", principal=alice)
    one = connect(alice)

    assert [token["token_id"] for token in tokens(one)] == [of_alice["token_id"]]
    with pytest.raises(psycopg.Error) as foreign:
        call(one, "revoke_token", token_id=of_bob["token_id"])
    with pytest.raises(psycopg.Error) as missing:
        call(one, "revoke_token", token_id=2**40)

    assert foreign.value.sqlstate == missing.value.sqlstate == "RTN05"
    assert authenticate(conn, of_bob["token"]) == bob
    call(one, "revoke_token", token_id=of_alice["token_id"])
    assert authenticate(conn, of_alice["token"]) is None


def test_the_tokens_of_a_role_that_is_gone_can_be_tidied_up(conn, connect, role):
    principal, alice = role(), role("in role rota_operator")
    (made,) = call(conn, "create_token", principal=principal)
    conn.execute(f"alter role {principal} rename to {principal}_x")
    one = connect(alice)

    assert [token["principal"] for token in tokens(one)] == [principal]
    call(one, "revoke_token", token_id=made["token_id"])

    assert tokens(one)[0]["revoked_at"]
    conn.execute(f"alter role {principal}_x rename to {principal}")


def test_the_login_of_the_api_must_be_able_to_act_as_the_principal(conn, role):
    principal, api = role(), role("login noinherit in role rota_api")

    with pytest.raises(psycopg.Error) as caught:
        make(conn, principal)
    assert caught.value.sqlstate == "RTC06"
    hint = caught.value.diag.message_hint or ""
    assert hint.replace('"', "").startswith(f"Run: grant {principal} to {api}")

    conn.execute(hint.removeprefix("Run: "))
    assert authenticate(conn, make(conn, principal)) == principal


def test_a_revoked_token_stays_revoked_and_says_since_when(conn, clock, role):
    (made,) = call(conn, "create_token", principal=role())
    call(conn, "revoke_token", token_id=made["token_id"])
    (before,) = tokens(conn)
    clock.advance(timedelta(hours=1))

    call(conn, "revoke_token", token_id=made["token_id"])

    assert tokens(conn) == [before]


def test_from_the_first_token_on_one_is_needed_also_when_it_is_revoked(conn, role):
    assert call(conn, "needs_token") == [{"needs_token": False}]

    (made,) = call(conn, "create_token", principal=role())
    call(conn, "revoke_token", token_id=made["token_id"])

    assert call(conn, "needs_token") == [{"needs_token": True}]


def test_the_last_use_is_written_once_a_minute(conn, clock, role):
    token = make(conn, role())
    written = []
    for _ in range(6):
        authenticate(conn, token)
        written.append(tokens(conn)[0]["last_used_at"])
        clock.advance(timedelta(seconds=25))

    assert written[0] is not None
    assert len(set(written)) == 2 and written.count(written[0]) == 3


def test_whoever_holds_a_token_s_row_holds_up_nobody(conn, connect, role):
    token = make(conn, role())
    holder = connect(autocommit=False)
    holder.execute("select from rota.api_tokens for update")
    conn.execute("set lock_timeout = '1ms'")

    assert authenticate(conn, token)

    assert tokens(conn)[0]["last_used_at"] is None
    holder.rollback()


def test_a_token_is_looked_up_where_nothing_can_be_written(connect, conn, role):
    token = make(conn, role())
    reader = connect()
    reader.execute("set default_transaction_read_only = on")

    assert authenticate(reader, token)


def test_only_the_api_s_role_looks_tokens_up(conn, connect, role):
    token = make(conn, role())

    for name in ("rota_producer", "rota_worker", "rota_operator", "rota_reader"):
        with sqlstate("42501"):
            authenticate(connect(name), token)
    assert authenticate(connect("rota_api"), token)


def test_nobody_reads_or_writes_the_table_of_tokens(connect):
    for name in ("rota_producer", "rota_worker", "rota_operator", "rota_reader", "rota_api"):
        for statement in (
            "select * from rota.api_tokens",
            "update rota.api_tokens set principal = 'x'",
            "delete from rota.api_tokens",
            "delete from rota.tokens",
            "insert into rota.action_log default values",
            "delete from rota.actions",
        ):
            with sqlstate("42501"):
                connect(name).execute(statement)


def test_the_caller_is_the_role_that_was_set_else_the_login(conn, connect, role):
    alice = role("in role rota_operator")
    call(conn, "configure_queue", queue="a")
    one = connect(alice)
    call(one, "configure_queue", queue="b")
    with conn.transaction():
        conn.execute("set local role rota_operator")
        call(conn, "configure_queue", queue="c")

    rows = conn.execute("select actor, queue from rota.actions order by queue").fetchall()

    assert rows == [("postgres", "a"), (alice, "b"), ("rota_operator", "c")]
