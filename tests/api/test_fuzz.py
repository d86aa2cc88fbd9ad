"""Requests made up from the documentation, valid and invalid, by schemathesis, with all its checks.

``ROTA_FUZZ`` says how many examples it makes up for each operation; ``make fuzz`` sets it.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import Connection

from rota.db.gateway import call
from tests.api.conftest import PROJECT, Server

EXAMPLES = os.environ.get("ROTA_FUZZ", "1")
SEED = os.environ.get("ROTA_FUZZ_SEED", "20")


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
            f"--seed={SEED}",
            f"--max-examples={EXAMPLES}",
            # No schema can say of any JSON that no text in it has this; tests of ours send it.
            "--generation-allow-x00=false",
            "--continue-on-failure",
            "--generation-database=none",
            "--no-color",
        ],
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.api.fuzzing", "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=300 + 30 * int(EXAMPLES),
    )

    answered = Counter(line["status"] for line in server.log_lines() if line.get("status"))
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert max(answered) < 500, answered
    assert answered[200] > 300 and answered[422] > 500 and answered[405] > 50, answered
