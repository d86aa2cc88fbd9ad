"""Make each mistake in a copy of the tree, run the tests that must notice: ``make mutants``.

The table of what came of it goes to docs/mutants.md. Words after the command choose those mutants
whose mistake contains one of them; then no table is written.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from rota.db.embedded import Cluster
from tests.conftest import SERVER_VERSION, TEST_SETTINGS
from tests.mutants.mutants import MUTANTS, Mutant
from tests.named import ROOT

PARTS = (
    "app",
    "db",
    "demo",
    "docs",
    "examples",
    "monitoring",
    "rota",
    "tests",
    "worker",
    "pyproject.toml",
)
TABLE = ROOT / "docs" / "mutants.md"
PATIENCE = 180  # seconds; a mutant that hangs has been noticed too

HEADING = """\
# Tests of the tests

Each line is a mistake that somebody could make in Rota. `make mutants` makes one after the other in
a copy of the source, and runs the tests that are named in its line: at least one of them must fail.
Before that, the same tests have passed without any mistake. A mistake that nobody notices is a
missing test.

"""


def main(words: list[str]) -> int:
    """Try the mutants; return 0 if every one was killed."""
    chosen = [m for m in MUTANTS if not words or any(word in m.mistake for word in words)]
    if not chosen:
        print(f"no mistake contains any of these: {' '.join(words)}")
        return 2
    with tempfile.TemporaryDirectory(prefix="rota-mutants-") as folder:
        tree = Path(folder) / "tree"
        for part in PARTS:
            copy(ROOT / part, tree / part)
        with Cluster(Path(folder) / "pg", SERVER_VERSION, TEST_SETTINGS) as pg:
            killers = sorted({killer for mutant in chosen for killer in mutant.killers})
            failed, last_line = run(tree, pg.url(), killers, patience=20 * PATIENCE)
            if failed:
                print(f"the tests fail without any mutant: {last_line}")
                return 1
            print(f"without a mutant: {last_line}", flush=True)
            results = [(mutant, *judge(tree, pg.url(), mutant)) for mutant in chosen]
    survivors = [mutant.mistake for mutant, killed, _ in results if not killed]
    if not words:
        TABLE.write_text(HEADING + table(results))
    print(f"{len(results) - len(survivors)} of {len(results)} mutants killed")
    for mistake in survivors:
        print(f"survived: {mistake}")
    return 1 if survivors else 0


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def judge(tree: Path, url: str, mutant: Mutant) -> tuple[bool, str]:
    """Apply a mutant, run its tests, and take it back; return whether it was killed, and how."""
    path = tree / mutant.file
    original = path.read_text()
    began = time.monotonic()
    path.write_text(mutated(original, mutant))
    try:
        killed, last_line = run(tree, url, mutant.killers, PATIENCE)
    finally:
        path.write_text(original)
    verdict = "killed" if killed else "SURVIVED"
    print(
        f"{verdict:8} {time.monotonic() - began:5.1f} s  {mutant.mistake}: {last_line}", flush=True
    )
    return killed, last_line


def mutated(text: str, mutant: Mutant) -> str:
    """Return the text with the mistake in it.

    Raises:
        ValueError: a text that is to be replaced does not stand there exactly once.
    """
    for old, new in mutant.changes:
        if text.count(old) != 1:
            raise ValueError(f"{mutant.file} has {text.count(old)} times: {old!r}")
        text = text.replace(old, new)
    return text


def run(
    tree: Path, url: str, tests: list[str] | tuple[str, ...], patience: float
) -> tuple[bool, str]:
    """Run tests; return whether one failed, and the closing line.

    A test that could not be set up has not failed: such a mutant is no mistake but a typing error.
    """
    environment = os.environ | {
        "TEST_DATABASE_URL": url,
        # What would wait for ever fails.
        "PGOPTIONS": "-c lock_timeout=10s -c statement_timeout=60s",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=patience
        )
    except subprocess.TimeoutExpired:
        return True, "hung"
    last_line = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
    if done.returncode == 0:
        return False, last_line
    # check_invariants, which looks at the database after each test, counts as one of its asserts.
    noticed = re.search(r"\d+ failed", last_line) or "ERROR at teardown" in done.stdout
    if done.returncode != 1 or not noticed:
        raise RuntimeError(f"the tests could not be run:\n{done.stdout[-3000:]}{done.stderr}")
    return True, re.sub(r" in [\d.]+s.*", "", last_line)


def table(results: list[tuple[Mutant, bool, str]]) -> str:
    lines = ["| mistake | in | noticed by | result |", "| --- | --- | --- | --- |"]
    for mutant, killed, _ in results:
        killers = "<br>".join(f"`{killer.split('::')[-1]}`" for killer in mutant.killers)
        verdict = "killed" if killed else "**survived**"
        lines.append(f"| {mutant.mistake} | `{mutant.file}` | {killers} | {verdict} |")
    killed = sum(killed for _, killed, _ in results)
    day = datetime.now(UTC).date()
    return "\n".join([*lines, "", f"{killed} of {len(results)} killed on {day}.", ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
