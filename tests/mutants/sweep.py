"""Make every small mistake that there is: ``python -m tests.mutants.sweep --sample 200``.

A mistake in SQL is made in the database that all tests are given copies of, so no test knows of it;
one in Python in a copy of the tree. The tests that are near to it run until one fails. One that
none notices is a survivor: it gets a test, or two lines in explained.txt that say why nobody could
notice it.

A run can be stopped and goes on where it was (.rota/mutants/sql.jsonl has what came of each); a
mistake is tried anew once its text has changed. ``--fresh`` starts over.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.testing import Clock
from tests.conftest import SERVER_VERSION, TEST_SETTINGS, roomy_memory
from tests.mutants import mistakes_in_python
from tests.mutants.mistakes_in_sql import Finder, Mistake
from tests.named import ROOT

FOLDER = ROOT / ".rota" / "mutants"
EXPLAINED = Path(__file__).parent / "explained.txt"
TESTS = (
    *("tests/functions", "tests/schedules", "tests/concurrency/test_races.py"),
    *("tests/concurrency/test_one_round_trip.py", "tests/concurrency/test_all_pairs.py"),
    *("tests/api/test_jobs.py", "tests/api/test_queues_and_workers.py"),
    *("tests/api/test_schedules.py", "tests/api/test_bad_requests.py"),
)
PYTEST = ("-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:terminalreporter")
PROGRAMS = {  # of Python, and the tests that run them
    "app": (
        "tests/api",
        "--ignore=tests/api/test_fuzz.py",
        "--ignore=tests/api/test_swagger_page.py",
    ),
    "worker": ("tests/worker",),
}
PARTS = ("app", "db", "demo", "docs", "rota", "tests", "worker", "pyproject.toml")
UNTOUCHED = {"_now"}  # the tests have another one
PATIENCE = 60.0  # seconds for the tests of one mistake; what hangs has been noticed, too
ENOUGH = 30.0  # seconds of tests that nobody needs to wait for any longer
LIMITS = "-c lock_timeout=8s -c statement_timeout=15s"


@dataclass(frozen=True)
class Definition:
    """A function or a view: where it stands, and what it is called."""

    name: str
    path: Path
    start: int
    end: int

    @property
    def text(self) -> str:
        """The statements that make it, without its comment."""
        return self.path.read_text()[self.start : self.end]


def definitions() -> list[Definition]:
    """Return all functions, and the views as the last migration makes them."""
    found = []
    for path in sorted((ROOT / "db" / "functions").rglob("*.sql")):
        text = path.read_text()
        start = text.index("create or replace function")
        found.append(Definition(path.stem, path, start, text.index("$$;", start) + 3))
    views: dict[str, Definition] = {}
    for path in sorted((ROOT / "db" / "migrations").glob("*.sql")):
        for match in re.finditer(
            r"^create (?:or replace )?view rota\.(\w+) .*?;$", path.read_text(), re.M | re.S
        ):
            views[match[1]] = Definition(match[1], path, match.start(), match.end())
    return [*found, *views.values()]


@dataclass(frozen=True)
class Mutant:
    """One mistake in one definition."""

    definition: Definition
    mistake: Mistake

    @property
    def statement(self) -> str:
        """What makes the mistake in a database."""
        mistake, text = self.mistake, self.definition.path.read_text()
        end = self.definition.end + len(mistake.new) - (mistake.end - mistake.start)
        made = mistake.made_in(text)[self.definition.start : end]
        return re.sub(r"\Acreate view", "create or replace view", made)

    @property
    def label(self) -> str:
        """Tell it from all others, whatever moves around it."""
        described = self.mistake.described(self.definition.path.read_text())
        return f"{self.definition.name}: {described}"

    @property
    def key(self) -> str:
        """The label, and what the rest of the definition looks like."""
        return hashlib.sha256((self.label + self.statement).encode()).hexdigest()[:16]


def mutants() -> list[Mutant]:
    """Return all mutants of all definitions."""
    return [
        Mutant(definition, mistake)
        for definition in definitions()
        if definition.name not in UNTOUCHED
        for mistake in Finder(
            definition.path.read_text(), definition.start, definition.end
        ).mistakes()
    ]


@dataclass(frozen=True)
class ProgramMutant:
    """One mistake in one module of Python."""

    path: Path
    mistake: Mistake

    @property
    def label(self) -> str:
        """Tell it from all others, whatever moves around it."""
        described = self.mistake.described(self.path.read_text())
        return f"{self.path.relative_to(ROOT)}: {described}"

    @property
    def key(self) -> str:
        """The label, and what the rest of the module looks like."""
        made = self.mistake.made_in(self.path.read_text())
        return hashlib.sha256((self.label + made).encode()).hexdigest()[:16]


def program_mutants() -> list[ProgramMutant]:
    """Return all mutants of all modules."""
    return [
        ProgramMutant(path, mistake)
        for program in PROGRAMS
        for path in sorted((ROOT / program).rglob("*.py"))
        for mistake in mistakes_in_python.mistakes(path.read_text())
    ]


def explained() -> dict[str, str]:
    """Return why some mistakes need not be noticed, by their labels.

    Two lines each: the label, then the reason, indented.
    """
    lines = [line for line in EXPLAINED.read_text().splitlines() if line and line[0] != "#"]
    return {label: reason.strip() for label, reason in zip(lines[::2], lines[1::2], strict=True)}


@contextlib.contextmanager
def environment(**settings: str) -> Iterator[None]:
    """Set variables for a while."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Tests:
    """The tests, which of them are near to what, and how they are run."""

    def __init__(self, url: str, template: str) -> None:
        self._url = url
        self._template = template
        self.seconds: dict[str, float] = {}
        self._near: dict[str, set[str]] = defaultdict(set)
        self._kills: dict[str, list[str]] = defaultdict(list)
        self._sound: set[str] = set()  # tests that pass without a mistake

    def record(self, paths: list[str]) -> None:
        """Run all tests without a mistake, and remember what each called."""
        calls = FOLDER / "calls.jsonl"
        calls.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutants.nearest", *paths]
        settings = {
            "TEST_DATABASE_URL": self._url,
            "ROTA_TEST_TEMPLATE": self._template,
            "ROTA_CALLS": str(calls),
            "PGOPTIONS": LIMITS,
        }
        subprocess.run(command, cwd=ROOT, env=os.environ | settings, check=False)

    def read(self) -> None:
        """Take in what was recorded."""
        for line in (FOLDER / "calls.jsonl").read_text().splitlines():
            seen = json.loads(line)
            self.seconds[seen["test"]] = seen["seconds"]
            for name in seen["functions"]:
                self._near[name].add(seen["test"])
        texts = {d.name: re.sub(r"--.*", "", d.text) for d in definitions()}
        sources = {test: (ROOT / test.partition("::")[0]).read_text() for test in self.seconds}
        for name in texts:
            if self._near[name]:
                continue
            # What the planner puts in the place of its call is not counted, nor are views.
            for other, text in texts.items():
                if other != name and re.search(rf"rota\.{name}\b", text):
                    self._near[name] |= self._near[other]
            for test, source in sources.items():
                if f"rota.{name}" in source or f"{name}(conn" in source:
                    self._near[name].add(test)

    def near(self, name: str) -> list[str]:
        """Return the tests of a function, those first that have noticed mistakes in it before."""
        kills = self._kills[name]
        recent = list(dict.fromkeys(reversed(kills)))[:8]
        others = sorted(self._near[name] - set(recent), key=lambda test: self.seconds[test])
        return recent + others

    def noticed(self, name: str) -> str | None:
        """Run the tests near to a function; return the first that failed, or None."""
        chosen: list[str] = []
        spent = 0.0
        for test in self.near(name):
            if spent > ENOUGH:
                break
            spent += self.seconds[test]
            chosen.append(test)
        if not chosen:
            return None
        killer = self._run(chosen)
        if killer in self.seconds:
            self._kills[name].append(killer)
        return killer

    def trusts(self, killer: str) -> bool:
        """Whether a test passes without a mistake; one that does not is asked no more."""
        if killer in self._sound or killer not in self.seconds:
            return True
        if self._run([killer]) is None:
            self._sound.add(killer)
            return True
        for near in self._near.values():
            near.discard(killer)
        for kills in self._kills.values():
            while killer in kills:
                kills.remove(killer)
        return False

    def _run(self, tests: list[str]) -> str | None:
        """Run tests in a child that has everything imported already."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            os.setsid()
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            watcher = Watcher()
            arguments = [*PYTEST, "-x", *tests]
            with environment(
                TEST_DATABASE_URL=self._url,
                ROTA_TEST_TEMPLATE=self._template,
                PGOPTIONS=LIMITS,
            ):
                code = pytest.main(arguments, plugins=[watcher])
            told = watcher.failed or (None if code == 0 else f"exit {code}")
            os.write(writer, json.dumps(told).encode())
            os._exit(0)
        os.close(writer)
        try:
            return json.loads(read_all(reader, PATIENCE + ENOUGH))
        except TimeoutError:
            return "hung"
        finally:
            os.close(reader)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


class Watcher:
    """Remembers the first test that failed."""

    failed: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at how a test went; what its database looks like afterwards counts, too."""
        if report.failed and self.failed is None:
            self.failed = report.nodeid


def warm_up() -> None:
    """Import all tests, so that the children need not."""
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet):
        pytest.main([*PYTEST, "--collect-only", *TESTS])


def read_all(reader: int, seconds: float) -> bytes:
    """Read a pipe to its end.

    Raises:
        TimeoutError: it did not end in time.
    """
    ends_at = time.monotonic() + seconds
    data = b""
    while True:
        if not select.select([reader], [], [], max(0.0, ends_at - time.monotonic()))[0]:
            raise TimeoutError
        more = os.read(reader, 65536)
        if not more:
            return data
        data += more


class Tree:
    """A copy of the source, in which the mistakes in Python are made."""

    def __init__(self, folder: Path, url: str, template: str) -> None:
        self._folder = folder
        self._settings = {
            "TEST_DATABASE_URL": url,
            "ROTA_TEST_TEMPLATE": template,
            "PGOPTIONS": LIMITS,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._kills: dict[str, list[str]] = defaultdict(list)
        self._sound: set[str] = set()  # tests that pass without a mistake
        self._unsound: set[str] = set()
        for part in PARTS:
            source, target = ROOT / part, folder / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)

    def judge(self, mutant: ProgramMutant) -> tuple[str, str]:
        """Make a mistake, look who notices, and take it back; return the verdict and by whom."""
        path = self._folder / mutant.path.relative_to(ROOT)
        original = path.read_text()
        made = mutant.mistake.made_in(original)
        try:
            compile(made, str(path), "exec")
        except SyntaxError as error:
            return "none", str(error)
        while True:
            path.write_text(made)
            try:
                killer = self._noticed(mutant.path)
            finally:
                path.write_text(original)
            if killer is None:
                return "survived", ""
            if "::" not in killer or killer in self._sound:
                break
            if self._run([killer]) is None:
                self._sound.add(killer)
                break
            self._unsound.add(killer)  # it fails here anyhow: look for another
        self._kills[str(mutant.path)].append(killer)
        return "killed", killer

    def _noticed(self, path: Path) -> str | None:
        kills = [k for k in dict.fromkeys(reversed(self._kills[str(path)])) if "::" in k][:6]
        program = PROGRAMS[path.relative_to(ROOT).parts[0]]
        without = [f"--deselect={test}" for test in sorted(self._unsound)]
        return (self._run(kills) if kills else None) or self._run([*program, *without])

    def _run(self, tests: list[str]) -> str | None:
        """Run tests; return the first that failed, or None."""
        command = [sys.executable, "-m", "pytest", *PYTEST[:5], "-x", "-rfE", *tests]
        try:
            done = subprocess.run(
                command,
                cwd=self._folder,
                env=os.environ | self._settings,
                capture_output=True,
                text=True,
                timeout=10 * PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return "hung"
        if done.returncode == 0:
            return None
        failed = re.findall(r"^(?:FAILED|ERROR) (tests\S+::\S+)", done.stdout, re.M)
        return failed[0] if failed else f"exit {done.returncode}"


def judge(tests: Tests, url: str, mutant: Mutant) -> tuple[str, str]:
    """Make a mistake, look who notices, and take it back; return the verdict and by whom."""
    try:
        execute(url, mutant.statement)
    except psycopg.Error as error:
        return "none", str(error).splitlines()[0]
    original = re.sub(r"\Acreate view", "create or replace view", mutant.definition.text)
    while True:
        try:
            killer = tests.noticed(mutant.definition.name)
        finally:
            execute(url, original)
        if killer is None:
            return "survived", ""
        if tests.trusts(killer):
            return "killed", killer
        execute(url, mutant.statement)


def in_sql(url: str, record: bool) -> Callable[[Mutant], tuple[str, str]]:
    """Get ready for mistakes in SQL; return what judges one."""
    tests = Tests(url, "rota_mutants")
    if record or not (FOLDER / "calls.jsonl").exists():
        tests.record(list(TESTS))
    tests.read()
    warm_up()
    template = psycopg.conninfo.make_conninfo(url, dbname="rota_mutants")
    return lambda mutant: judge(tests, template, mutant)


def execute(url: str, statement: str) -> None:
    """Run a statement in a session of its own, and wait until that has ended."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("set check_function_bodies = on")
        conn.execute(statement)
        pid = conn.info.backend_pid
    with psycopg.connect(url, dbname="postgres", autocommit=True) as conn:
        for _ in range(500):
            row = conn.execute("select from pg_stat_activity where pid = %s", [pid]).fetchone()
            if row is None:
                return
            time.sleep(0.01)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.sweep", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mistakes whose labels contain one of these")
    parser.add_argument("--python", action="store_true", help="mistakes in Python, not in SQL")
    parser.add_argument("--sample", type=int, help="try so many, drawn at random")
    parser.add_argument("--seed", type=int, default=7, help="of the draw")
    parser.add_argument("--shard", default="1/1", help="2/3 tries the second of three parts")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--again", action="store_true", help="try earlier survivors again")
    parser.add_argument("--record", action="store_true", help="look anew which tests are near")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    return parser.parse_args(arguments)


def choose(options: argparse.Namespace) -> list[Any]:
    """Return the mutants that the command line asks for."""
    chosen = [
        mutant
        for mutant in (program_mutants() if options.python else mutants())
        if not options.words or any(word in mutant.label for word in options.words)
    ]
    if options.sample:
        draw = random.Random(options.seed)
        chosen = draw.sample(chosen, min(options.sample, len(chosen)))
    part, of = (int(number) for number in options.shard.split("/"))
    return [m for number, m in enumerate(chosen) if number % of == part - 1]


def main(arguments: list[str]) -> int:
    """Try mutants; return 0 if none survived that is not explained."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill stops the server, too
    options = parse(arguments)
    chosen = choose(options)
    if options.list:
        for mutant in chosen:
            print(mutant.label)
        print(f"{len(chosen)} mistakes")
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    language = "python" if options.python else "sql"
    results = FOLDER / f"{language}-{options.shard.replace('/', '-of-')}.jsonl"
    if options.fresh:
        results.unlink(missing_ok=True)
    known: dict[str, Any] = {}
    for path in FOLDER.glob(f"{language}-*.jsonl"):
        known |= {r["key"]: r for r in map(json.loads, path.read_text().splitlines())}
    reasons = explained()
    settings = TEST_SETTINGS | {"track_functions": "all"}
    with (
        tempfile.TemporaryDirectory(prefix="rota-mutants-", dir=roomy_memory()) as folder,
        Cluster(Path(folder) / "pg", SERVER_VERSION, settings) as server,
    ):
        with psycopg.connect(server.url(), autocommit=True) as conn:
            conn.execute("create database rota_mutants")
        deploy(server.url("rota_mutants"), report=lambda line: None)
        with psycopg.connect(server.url("rota_mutants")) as conn:
            Clock(conn)
        try_one = (
            Tree(Path(folder) / "tree", server.url(), "rota_mutants").judge
            if options.python
            else in_sql(server.url(), options.record)
        )
        survived = 0
        counts: dict[str, int] = defaultdict(int)
        with results.open("a") as file:
            for number, mutant in enumerate(chosen, 1):
                before = known.get(mutant.key)
                if before and not (options.again and before["verdict"] == "survived"):
                    verdict, by, seconds = before["verdict"], before["by"], 0.0
                else:
                    began = time.monotonic()
                    verdict, by = try_one(mutant)
                    seconds = time.monotonic() - began
                    line = {"key": mutant.key, "label": mutant.label, "verdict": verdict}
                    file.write(json.dumps(line | {"by": by, "seconds": round(seconds, 2)}) + "\n")
                    file.flush()
                if verdict == "survived" and mutant.label in reasons:
                    verdict = "explained"
                counts[verdict] += 1
                survived += verdict == "survived"
                if seconds or verdict == "survived":
                    shown = {"survived": "SURVIVED"}.get(verdict, verdict)
                    print(
                        f"{number}/{len(chosen)} {shown:8} {seconds:5.1f} s  {mutant.label}  {by}",
                        flush=True,
                    )
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
