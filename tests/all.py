"""Run the tests on every PostgreSQL at hand: ``python -m tests.all 18 16 15 -- tests/functions``.

All tests run on the first version. The tests named after ``--`` depend on the server: the other
versions get them too, and some once more a server whose defaults are hostile
(tests/hostile.py), the last version of those at hand, for it is the one that may know of Turkish.
There a test with many cases runs one of them (``ROTA_FEW`` in tests/conftest.py), unless it has the
marker ``on_every_server``, one with the marker ``on_first_server`` none, and the stress is short;
``ROTA_EVERYTHING=1`` runs all of it. A version that is not installed is passed by. With
``TEST_DATABASE_URL`` all the tests run once, on that server. The closing line of each run is
repeated at the end.

The tests are parted into runs, and four run at once, so that nobody idles while the tests of the
worker wait, which do so more than they work. Tests of the server wait for nobody's clock: they give
way to others (``nice``).

Many tests kill, freeze and time real processes, and a machine that is busy can fail one of them.
What failed is therefore run once more, by itself: what fails twice fails the run, and the first
failure stays in the output for whoever reads it. Both are named below the closing lines.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rota.db.embedded import binaries

RUNNING: set[subprocess.Popen[str]] = set()
STOPPING = threading.Event()
FAILED = 1  # pytest's exit code when tests failed
CLOSING_LINE = re.compile(r"=* ?(no tests ran|\d+ [a-z]+\b.*) in [\d.]+s")
FAILURE = re.compile(r"(?:FAILED|ERROR) tests/.+?(?= - |$)")

AT_ONCE = 4

WORKER_TESTS = ["tests/worker", "tests/faults", "tests/history", "tests/test_minimal_worker.py"]

PAGE_TESTS = ["tests/ui", "tests/client"]  # with browsers and terminals, which take their time

API_TESTS = ["tests/api"]

# What callers' settings could change at all; "make hostile" runs all.
HOSTILE_TESTS = [
    "tests/functions/test_every_door.py",
    "tests/functions/test_every_parameter.py",
    "tests/functions/test_sessions.py",
    "tests/functions/test_enqueue.py",
    "tests/functions/test_bulk.py",
    "tests/functions/test_claim.py",
    "tests/functions/test_finish.py",
    "tests/functions/test_recovery.py",
    "tests/functions/test_steps.py",
    "tests/functions/test_turns.py",
    "tests/functions/test_workflows.py",
    "tests/functions/test_upkeep.py",
    "tests/functions/test_retention.py",
    "tests/functions/test_statistics.py",
    "tests/schedules/test_interval_slot.py",
    "tests/schedules/test_life.py",
    "tests/schedules/test_next_run.py",
    "tests/schedules/test_preview.py",
]

SHORT = {} if os.environ.get("ROTA_EVERYTHING") else {"ROTA_FEW": "1", "ROTA_STRESS_SECONDS": "10"}


@dataclass(frozen=True)
class Run:
    """One run of pytest, the name that its results have, and the label of its output."""

    name: str
    label: str
    tests: list[str]
    environment: dict[str, str]
    gives_way: bool = False


def main(arguments: list[str]) -> int:
    """Run pytest once for each part and version; return 0 if every run passed."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    border = arguments.index("--")
    versions, server_tests = arguments[:border], arguments[border + 1 :]
    if os.environ.get("TEST_DATABASE_URL"):
        return _run(Run("", "", [], {}))[0]

    installed = [version for version in versions if binaries(int(version))]
    for version in versions:
        if version not in installed:
            print(f"PostgreSQL {version} is not installed here: passed by", flush=True)
    if not installed:
        return 1
    runs = _parts(installed, server_tests)
    with ThreadPoolExecutor(AT_ONCE) as at_once:
        results = list(at_once.map(_run, runs))

    for run, (_, closing) in zip(runs, results, strict=True):
        print(f"{run.name}: {closing}")
    return int(any(code for code, _ in results))


def _parts(installed: list[str], server_tests: list[str]) -> list[Run]:
    """Return all runs, in the order in which they begin: what takes longest comes first."""
    apart = [*server_tests, *WORKER_TESTS, *PAGE_TESTS, *API_TESTS]
    others = [f"--ignore={tests}" for tests in apart]
    (first, *more), last = installed, installed[-1]
    on_first = {"ROTA_PG": first}
    return [
        Run(f"PostgreSQL {first}", f"{first}: ", server_tests, on_first, gives_way=True),
        Run("worker", "worker: ", WORKER_TESTS, on_first),
        *(
            Run(f"PostgreSQL {v}", f"{v}: ", server_tests, {"ROTA_PG": v, **SHORT}, gives_way=True)
            for v in more
        ),
        Run("API", "api: ", API_TESTS, on_first),
        Run("all else", "", others, on_first),
        Run("pages and commands", "pages: ", PAGE_TESTS, on_first),
        Run(
            "hostile defaults",
            "hostile: ",
            HOSTILE_TESTS,
            {"ROTA_PG": last, "ROTA_HOSTILE": "1", **SHORT},
            gives_way=True,
        ),
    ]


def _interrupt(*_: object) -> None:
    """Have pytest stop what it has started, as Ctrl-C would."""
    STOPPING.set()
    for process in list(RUNNING):
        process.send_signal(signal.SIGINT)


def _run(run: Run) -> tuple[int, str]:
    """Run pytest, and what failed once more; return the last exit code and the closing lines.

    Each run has a folder of its own for temporary files: pytest shuts the one that is shared by
    all, when it starts, and so shuts out the servers of a run that is under way.
    """
    with tempfile.TemporaryDirectory(prefix="rota-pytest-") as folder:
        places = [f"--basetemp={folder}/files", "-o", f"cache_dir={folder}/cache"]
        code, closing = _pytest(run, places)
        if code == FAILED and not STOPPING.is_set():
            print(f"{run.label}==== what failed, once more", flush=True)
            code, again = _pytest(run, [*places, "--last-failed"])
            closing = f"{closing}\n  what failed, once more: {again}"
    return code, closing


def _pytest(run: Run, options: list[str]) -> tuple[int, str]:
    """Run pytest and print its output as it comes, each line after the label.

    Returns:
        Its exit code, and its closing line with the tests that failed, a line each.
    """
    if STOPPING.is_set():
        return 1, "not run"
    way = ["nice", "-n", "5"] if run.gives_way else []
    with subprocess.Popen(
        [*way, sys.executable, "-m", "pytest", "-q", *options, *run.tests],
        env=os.environ | run.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        RUNNING.add(process)
        if STOPPING.is_set():
            process.send_signal(signal.SIGINT)
        closing_line = "no closing line"
        failures: list[str] = []
        for line in process.stdout or ():
            print(run.label + line, end="", flush=True)
            if CLOSING_LINE.match(line):  # a thread that a test has left may say something after it
                closing_line = line.strip()
            if failure := FAILURE.match(line):
                failures.append(failure.group())
    return process.returncode, "\n    ".join([closing_line, *failures])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
