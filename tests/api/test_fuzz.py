"""A thousand requests made up from the documentation, valid and invalid, by schemathesis."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import Connection

from rota.db.gateway import call
from tests.api.conftest import Server

# All the waits that it would think of take half an hour.
HOOKS = """
import schemathesis


@schemathesis.hook
def before_call(context, case, *_):
    for values, name in ((case.query, "wait"), (case.body, "wait_seconds")):
        wait = values.get(name) if isinstance(values, dict) else None
        if str(wait).replace(".", "").isdecimal() and 0 < float(wait) <= 30:
            values[name] = "0" if isinstance(wait, str) else 0
"""


@pytest.fixture
def token(conn: Connection) -> Iterator[str]:
    """A token of a principal with all scopes."""
    conn.execute("create role somebody_random")
    conn.execute("grant rota_producer, rota_worker, rota_operator to somebody_random")
    yield call(conn, "create_token", principal="somebody_random")[0]["token"]
    conn.execute("drop role somebody_random")


def test_the_documentation_keeps_its_word(server: Server, token: str, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS)
    outcome = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            f"{server.url}/apispec.json",
            f"--header=Authorization: Bearer {token}",
            "--checks=all",
            # A schema cannot say that no text may hold a NUL, or that a key is taken; nor that
            # GET /schedules/preview asks for the schedule of that name.
            "--exclude-checks=positive_data_acceptance,unsupported_method,allow_header_conformance",
            "--seed=20",
            "--max-examples=12",
            "--continue-on-failure",
            "--generation-database=none",
            "--no-color",
        ],
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )

    answered = Counter(line["status"] for line in server.log_lines() if line.get("status"))
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert max(answered) < 500, answered
    assert answered.total() > 500, answered
