"""Run the tests on every PostgreSQL at hand: ``python -m tests.all 18 16 15 -- tests/functions``.

The first version gets all the tests. Meanwhile the others get, one after the other, those named
after ``--``; their output comes when the first is through. A version that is not installed is
passed by. With ``TEST_DATABASE_URL`` all the tests run once, on that server. The closing line of
each run is repeated at the end.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

from db.embedded import binaries

RUNNING: set[subprocess.Popen[str]] = set()
STOPPING = threading.Event()


def main(arguments: list[str]) -> int:
    """Run pytest once for each version; return 0 if every run passed."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    border = arguments.index("--")
    versions, server_tests = arguments[:border], arguments[border + 1 :]
    if os.environ.get("TEST_DATABASE_URL"):
        code, _ = _pytest([], {}, aloud=True)
        return code

    installed = [version for version in versions if binaries(int(version))]
    for version in versions:
        if version not in installed:
            print(f"PostgreSQL {version} is not installed here: passed by", flush=True)
    if not installed:
        return 1
    first, *others = installed
    with ThreadPoolExecutor(1) as meanwhile:
        quiet = [
            (version, meanwhile.submit(_pytest, server_tests, {"ROTA_PG": version}, aloud=False))
            for version in others
        ]
        print(f"==== PostgreSQL {first}", flush=True)
        results = {first: _pytest([], {"ROTA_PG": first}, aloud=True)}
        for version, run in quiet:
            results[version] = run.result()
            print(f"==== PostgreSQL {version}\n{results[version][1]}", flush=True)

    for version, (_, output) in results.items():
        print(f"PostgreSQL {version}: {output.rstrip().splitlines()[-1]}")
    return max(code for code, _ in results.values())


def _interrupt(*_: object) -> None:
    """Have pytest stop what it has started, as Ctrl-C would."""
    STOPPING.set()
    for process in RUNNING:
        process.send_signal(signal.SIGINT)


def _pytest(tests: list[str], environment: dict[str, str], *, aloud: bool) -> tuple[int, str]:
    """Run pytest, print its output as it comes if aloud; return its exit code and output.

    Each run has a folder of its own for temporary files: pytest shuts the one that is shared by
    all, when it starts, and so shuts out the servers of a run that is under way.
    """
    if STOPPING.is_set():
        return 1, "not run"
    with (
        tempfile.TemporaryDirectory(prefix="rota-pytest-") as folder,
        subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", f"--basetemp={folder}/files", *tests],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        RUNNING.add(process)
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            if aloud:
                print(line, end="", flush=True)
    return process.returncode, "".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
