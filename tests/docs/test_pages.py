"""Every command in the documentation is run, and its output is as shown."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rota.app import create_app
from rota.db.reference import render
from tests.docs.pages import COMMANDS, MODES, OUTPUTS, PAGES, ROOT, Block, agrees, blocks, settle
from tests.test_compose import free_port

PATIENCE = 30.0  # seconds
STATED_PORT = "127.0.0.1:5000"


class Reader:
    """Somebody who follows a page in a clone of the project, to the letter."""

    def __init__(self, clone: Path, port: int) -> None:
        self.clone = clone
        self.port = port
        self.environment = clone / ".env-of-the-reader"
        self.environment.touch()
        self.servers: list[tuple[Block, subprocess.Popen]] = []

    def follow(self, block: Block) -> None:
        """Do what the block says, and compare what comes of it."""
        if block.saved_as:
            (self.clone / block.saved_as).write_text(block.code)
        elif block.mode == "serve":
            self._serve(block)
        else:
            self._run(block)

    def leave(self) -> None:
        """Stop what was left running, the last first, as Ctrl-C does."""
        while self.servers:
            block, process = self.servers.pop()
            os.killpg(process.pid, signal.SIGINT)
            ended = process.wait(PATIENCE)  # make, interrupted, ends by the signal
            assert ended in (0, -signal.SIGINT), f"{block} did not end well"

    def _shell(self, block: Block) -> str:
        code = block.code.replace(STATED_PORT, f"127.0.0.1:{self.port}")
        if block.language == "sql":
            code = f"psql --no-psqlrc \"$DATABASE_URL\" <<'END OF SQL'\n{code}END OF SQL\n"
        return code

    def _start(self, code: str, output: int) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", "-c", f"source '{self.environment}'\n{code}"],
            cwd=self.clone,
            env={
                "PATH": os.environ["PATH"],
                "HOME": os.environ.get("HOME", "/"),
                "LANG": "C.UTF-8",
                "PORT": str(self.port),
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _run(self, block: Block) -> None:
        code = f"{self._shell(block)}\nexport -p > '{self.environment}'"
        deadline = time.monotonic() + (PATIENCE if block.mode == "wait" else 0)
        while True:
            process = self._start(code, subprocess.PIPE)
            output, _ = process.communicate(timeout=PATIENCE)
            text = output.decode().replace(f"127.0.0.1:{self.port}", STATED_PORT)
            if block.output is None:
                assert process.returncode == 0 and "ERROR:" not in text, f"{block}\n{text}"
                return
            if agrees(text, block.output):
                return
            if time.monotonic() > deadline:
                pytest.fail(f"{block} shows\n{settle(block.output)}\nbut there is\n{settle(text)}")
            time.sleep(0.05)

    def _serve(self, block: Block) -> None:
        path = self.clone / f"output-{len(self.servers)}"
        with path.open("wb") as file:
            process = self._start(f"exec {self._shell(block)}", file.fileno())
        self.servers.append((block, process))
        deadline = time.monotonic() + PATIENCE
        while True:
            text = path.read_text().replace(f"127.0.0.1:{self.port}", STATED_PORT)
            if agrees(text, f"…{block.output.strip()}…"):
                return
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{block} shows\n{block.output}\nbut there is\n{text}")
            time.sleep(0.05)


def need(program: str) -> None:
    """Leave a page out where a program is missing that its reader needs."""
    if shutil.which(program) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{program} is not installed")


@pytest.fixture
def clone(server_folder: Path) -> Path:
    """A copy of the project as `make` leaves it, with a virtual environment that is up to date."""
    need("curl")
    clone = server_folder / "rota"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():  # not one that was deleted just now
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    environment = clone / ".venv"
    environment.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name not in {"run", "dev"}:
            (environment / entry.name).symlink_to(entry)
    for stamp in ("run", "dev"):
        (environment / stamp).touch()
    return clone


@pytest.fixture
def reader(clone: Path) -> Iterator[Reader]:
    """Somebody to follow a page; what they leave running is ended."""
    reader = Reader(clone, free_port())
    yield reader
    for _, process in reversed(reader.servers):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(PATIENCE)


def to_run(page: Path) -> list[Block]:
    """Return the blocks to follow, those that the page builds on included."""
    own = [block for block in blocks(page) if not block.reason and block.language not in OUTPUTS]
    if page == PAGES[0] or not own:
        return own
    return [
        block for block in blocks(PAGES[0]) if block.mode == "setup" or "make run" in block.code
    ] + own


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_does_what_it_says(page, reader):
    to_follow = to_run(page)
    if any(re.search(r"^node ", block.code, re.M) for block in to_follow):
        need("node")
    for block in to_follow:
        reader.follow(block)

    reader.leave()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_out_without_a_reason(page):
    for block in blocks(page):
        known = block.saved_as or (block.language in COMMANDS and block.mode in MODES)
        assert known or block.reason or (block.language == "text" and not block.mode), block
        assert block.mode != "wait" or block.output, f"{block} waits for nothing"
        assert block.mode != "serve" or block.output, f"{block} never is up"
    fences = re.findall(r"^```", page.read_text(), re.M)
    outputs = sum(block.output is not None for block in blocks(page))
    assert len(fences) == 2 * (len(blocks(page)) + outputs)


def test_an_output_that_differs_is_noticed():
    shown = '{\n    …\n    "state": "COMPLETED",\n    …\n}\n'

    assert agrees('{\n "id": 1,\n "state": "COMPLETED",\n "x": 2\n}', shown)
    assert not agrees('{\n "id": 1,\n "state": "FAILED",\n "x": 2\n}', shown)
    assert not agrees(" id\n----\n  7\n(1 row)", " id\n----\n  8\n(1 row)")
    assert agrees("2026-11-23 21:20:12.945308+00", "2030-01-01 00:00:00.1+01")
    assert not agrees("2026-11-23 21:20:12+00", "2030-01-01 00:00:00+01")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def test_the_readme_can_be_read_in_two_minutes():
    assert len(PAGES[0].read_text().splitlines()) <= 350


def test_the_readme_leads_to_every_page():
    for path in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{path.name})" in PAGES[0].read_text()


def test_every_setting_is_listed():
    text = page("configuration")
    sources = [
        path
        for folder in ("app", "db", "demo", "rota", "worker")
        for path in (ROOT / folder).rglob("*.py")
    ]
    variables = {
        name
        for source in sources
        for name in re.findall(r"os\.environ(?:\.get\(|\[)\"(\w+)\"", source.read_text())
    }
    usage = subprocess.run(
        [sys.executable, "-m", "rota.worker", "--help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    options = set(re.findall(r"--[a-z-]+", usage)) - {"--help"}

    assert {"DATABASE_URL", "PORT"} <= variables
    assert {"--queues", "--concurrency"} <= options
    assert [name for name in sorted(variables | options) if f"`{name}" not in text] == []


def test_every_request_is_listed():
    rules = create_app("postgresql:///").url_map.iter_rules()
    served = {
        f"{method} " + re.sub(r"<\w+:(\w+)>", r"{\1}", str(rule)).replace("{job_id}", "{id}")
        for rule in rules
        for method in rule.methods - {"HEAD", "OPTIONS"}
        if not str(rule).startswith(("/api", "/ui")) and str(rule) != "/"
    }

    listed = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`?]*[^`?/…])`", page("rest")))

    assert listed == served


def test_every_error_is_listed_of_the_functions():
    raised = {
        code
        for path in (ROOT / "db" / "functions").rglob("*.sql")
        for code in re.findall(r"\bRT[A-Z]\d\d\b", path.read_text())
    }

    assert raised == set(re.findall(r"`(RT[A-Z]\d\d)`", page("psql")))


def test_the_reference_is_that_of_these_functions(conn):
    assert (ROOT / "docs" / "functions.md").read_text() == render(conn), (
        "write it anew: python -m rota.db.reference URL >docs/functions.md"
    )


def test_the_reference_lists_for_each_role_what_it_has_rights_to(conn):
    page = (ROOT / "docs" / "functions.md").read_text()
    roles = ["rota_producer", "rota_worker", "rota_operator", "rota_reader", "rota_api"]
    headings = ["Producers", "Workers", "Operators", "Readers", "API"]
    rights = """
        select proname from pg_proc
        where pronamespace = 'rota'::regnamespace and proname not like '\\_%%'
            and has_function_privilege(%(role)s, oid, 'execute')
        union all
        select relname from pg_class
        where relnamespace = 'rota'::regnamespace and relkind = 'v'
            and has_table_privilege(%(role)s, oid, 'select')
    """

    assert re.findall(r"^## (.*)$", page, re.M) == [*headings, "Deployers"]
    for role, heading in zip(roles, headings, strict=True):
        line = re.search(rf"^\| \[{heading}\].*$", page, re.M)[0]
        (own,) = re.findall(rf"^## {heading}$(.*?)(?=^## )", page, re.M | re.S)
        listed = set(re.findall(r"\]\(#([a-z_]+)\)", line)) - {heading.lower()}
        assert listed == {name for (name,) in conn.execute(rights, {"role": role})}
        assert set(re.findall(r"^### (.*)$", own, re.M)) <= listed
