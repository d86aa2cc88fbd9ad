"""What commands do where DATABASE_URL names several databases."""

import json
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import Connection

from rota import doctor, tail, tokens, why
from rota.db.gateway import call
from rota.logs import secrets

NOBODY = "postgresql://127.0.0.1:1/none"


@pytest.fixture
def conns(two_shards: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Connection]]:
    monkeypatch.setenv("DATABASE_URL", " ".join(two_shards))
    opened = [psycopg.connect(url, autocommit=True) for url in two_shards]
    yield opened
    for conn in opened:
        conn.close()


def test_why_asks_the_database_that_has_the_job(conns, capsys):
    for conn in conns:
        (job,) = call(conn, "enqueue_job", task="echo", queue=f"of {conn.info.dbname}")

        assert why.main([str(job["job_id"]), "--json"]) == 0
        codes = [row["code"] for row in json.loads(capsys.readouterr().out)]
        assert "UNKNOWN" not in codes
    assert why.main(["77", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["code"] == "UNKNOWN"


def test_doctor_looks_at_all_and_says_which(conns, capsys):
    call(conns[1], "enqueue_job", task="echo", queue="unserved", run_at="2001-01-01")

    assert doctor.main(["--json"]) == 2

    found = [row["finding"] for row in json.loads(capsys.readouterr().out)]
    names = [f"/{conn.info.dbname}: " for conn in conns]
    assert all(any(name in finding for name in names) for finding in found)
    assert any(names[1] in finding and "due in queue" in finding for finding in found)


def test_doctor_says_that_one_could_not_be_asked(conns, two_shards, capsys, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"{two_shards[0]} {NOBODY}")

    assert doctor.main([]) == 2

    assert "rota doctor, 127.0.0.1:1/none: " in capsys.readouterr().err


def test_a_token_is_made_in_all_of_them(conns, capsys):
    role = f"shards_{conns[0].info.backend_pid}"
    try:
        assert tokens.main(["create", "--principal", role, "--scope", "reader"]) == 0

        token = capsys.readouterr().out.strip()
        for conn in conns:
            query = "select rota.authenticate_token(sha256(convert_to(%s, 'UTF8')))"
            assert conn.execute(query, [token]).fetchone() == (role,)
        assert tokens.main(["revoke", "1"]) == 1
        assert "a number of its own in each database" in capsys.readouterr().err
    finally:
        conns[0].execute(f"drop role {role}")


def test_what_follows_one_database_says_so(conns, capsys):
    assert tail.main([]) != 0
    assert "DATABASE_URL names several databases, and this is for one" in capsys.readouterr().err


def test_no_password_of_any_of_them_is_logged(monkeypatch):
    monkeypatch.setenv(
        "DATABASE_URL", "postgresql://a:first-secret-1@h/a postgresql://b:other-secret-2@h/b"
    )
    argv = ["worker", "--database", "postgresql://c:third-secret-3@h/c"]
    monkeypatch.setattr("sys.argv", argv)

    assert {"first-secret-1", "other-secret-2", "third-secret-3"} <= set(secrets())
