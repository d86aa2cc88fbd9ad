"""Run the tests on every PostgreSQL at hand: ``python -m tests.all 18 16 15 -- tests/functions``.

The tests named after ``--`` depend on the server: all versions get them, beside each other, for
these tests wait for nobody's clock. The other tests, most of which do, come before, on the first
version: those of the worker, which wait more than they work, and all else beside them. A version
that is not installed is passed by. Beside the versions the functions are tested once more on a
server whose defaults are hostile (tests/hostile.py), the last version of those at hand, for it is
the one that may know of Turkish. With ``TEST_DATABASE_URL`` all the tests run once, on that
server. The closing line of each run is repeated at the end.

Many tests kill, freeze and time real processes, and a machine that is busy can fail one of them.
What failed is therefore run once more, by itself: what fails twice fails the run, and the first
failure stays in the output for whoever reads it.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

from rota.db.embedded import binaries

RUNNING: set[subprocess.Popen[str]] = set()
STOPPING = threading.Event()
FAILED = 1  # pytest's exit code when tests failed

WORKER_TESTS = ["tests/worker", "tests/faults", "tests/history", "tests/test_minimal_worker.py"]

PAGE_TESTS = ["tests/ui", "tests/client"]  # with browsers and terminals, which take their time

# Of the schedules those that are soon done; "make hostile" runs all.
HOSTILE_TESTS = [
    "tests/functions",
    "tests/schedules/test_interval_slot.py",
    "tests/schedules/test_life.py",
    "tests/schedules/test_next_run.py",
    "tests/schedules/test_preview.py",
    "tests/schedules/test_simulation.py",
]


def main(arguments: list[str]) -> int:
    """Run pytest once for each version; return 0 if every run passed."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    border = arguments.index("--")
    versions, server_tests = arguments[:border], arguments[border + 1 :]
    if os.environ.get("TEST_DATABASE_URL"):
        return _run([], {}, "")[0]

    installed = [version for version in versions if binaries(int(version))]
    for version in versions:
        if version not in installed:
            print(f"PostgreSQL {version} is not installed here: passed by", flush=True)
    if not installed:
        return 1
    others = [f"--ignore={tests}" for tests in (*server_tests, *WORKER_TESTS, *PAGE_TESTS)]
    first = {"ROTA_PG": installed[0]}
    with ThreadPoolExecutor(1) as aside, ThreadPoolExecutor(1) as beside:
        worker = aside.submit(_run, WORKER_TESTS, first, "worker: ")
        pages = aside.submit(_run, PAGE_TESTS, first, "pages: ")
        else_ = beside.submit(_run, others, first, "")
    results = {
        "worker": worker.result(),
        "pages and commands": pages.result(),
        "all else": else_.result(),
    }
    with ThreadPoolExecutor(len(installed) + 1) as at_once:
        runs = {
            version: at_once.submit(_run, server_tests, {"ROTA_PG": version}, f"{version}: ")
            for version in installed
        }
        hostile = at_once.submit(
            _run, HOSTILE_TESTS, {"ROTA_PG": installed[-1], "ROTA_HOSTILE": "1"}, "hostile: "
        )
    results |= {f"PostgreSQL {version}": run.result() for version, run in runs.items()}
    results["hostile defaults"] = hostile.result()

    for name, (_, closing_line) in results.items():
        print(f"{name}: {closing_line}")
    return int(any(code for code, _ in results.values()))


def _interrupt(*_: object) -> None:
    """Have pytest stop what it has started, as Ctrl-C would."""
    STOPPING.set()
    for process in list(RUNNING):
        process.send_signal(signal.SIGINT)


def _run(tests: list[str], environment: dict[str, str], label: str) -> tuple[int, str]:
    """Run pytest, and what failed once more; return the last exit code and closing line.

    Each run has a folder of its own for temporary files: pytest shuts the one that is shared by
    all, when it starts, and so shuts out the servers of a run that is under way.
    """
    with tempfile.TemporaryDirectory(prefix="rota-pytest-") as folder:
        places = [f"--basetemp={folder}/files", "-o", f"cache_dir={folder}/cache"]
        code, closing_line = _pytest([*places, *tests], environment, label)
        if code == FAILED and not STOPPING.is_set():
            print(f"{label}==== what failed, once more", flush=True)
            code, again = _pytest([*places, "--last-failed", *tests], environment, label)
            closing_line = f"{closing_line}; what failed, once more: {again}"
    return code, closing_line


def _pytest(arguments: list[str], environment: dict[str, str], label: str) -> tuple[int, str]:
    """Run pytest and print its output as it comes, each line after the label.

    Returns:
        Its exit code and its closing line.
    """
    if STOPPING.is_set():
        return 1, "not run"
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        RUNNING.add(process)
        if STOPPING.is_set():
            process.send_signal(signal.SIGINT)
        line = "no output"
        for line in process.stdout or ():
            print(label + line, end="", flush=True)
    return process.returncode, line.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
