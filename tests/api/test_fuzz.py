"""A thousand requests made up from the documentation, valid and invalid, by schemathesis."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import Connection

from rota.db.gateway import call
from tests.api.conftest import Server


@pytest.fixture
def token(conn: Connection) -> Iterator[str]:
    """A token of a principal with all scopes."""
    conn.execute("create role somebody_random")
    conn.execute("grant rota_producer, rota_worker, rota_operator to somebody_random")
    yield call(conn, "create_token", principal="somebody_random")[0]["token"]
    conn.execute("drop role somebody_random")


def test_the_documentation_keeps_its_word(server: Server, token: str, tmp_path: Path) -> None:
    outcome = subprocess.run(
        [
            sys.executable,
            "-c",
            "from schemathesis.cli import schemathesis; schemathesis()",
            "run",
            f"{server.url}/apispec.json",
            f"--header=Authorization: Bearer {token}",
            "--checks=all",
            "--seed=20",
            "--max-examples=12",
            "--continue-on-failure",
            "--generation-database=none",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )

    answered = Counter(line["status"] for line in server.log_lines() if line.get("status"))
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert max(answered) < 500, answered
    assert answered.total() > 500, answered
