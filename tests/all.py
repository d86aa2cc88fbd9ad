"""Run the tests on every PostgreSQL at hand: ``python -m tests.all 18 16 15 -- tests/functions``.

The first version gets all the tests, each other one those named after ``--``. A version that is
not installed is passed by. With ``TEST_DATABASE_URL`` all the tests run once, on that server.
The closing line of each run is repeated at the end.
"""

import os
import subprocess
import sys

from db.embedded import binaries


def main(arguments: list[str]) -> int:
    """Run pytest once for each version; return 0 if every run passed."""
    border = arguments.index("--")
    versions, server_tests = arguments[:border], arguments[border + 1 :]
    if os.environ.get("TEST_DATABASE_URL"):
        runs = [("TEST_DATABASE_URL", {}, [])]
    else:
        runs = [
            (f"PostgreSQL {version}", {"ROTA_PG": version}, [] if number == 0 else server_tests)
            for number, version in enumerate(versions)
        ]

    closing_lines, codes = [], []
    for name, environment, tests in runs:
        if environment and binaries(int(environment["ROTA_PG"])) is None:
            closing_lines.append(f"{name}: not installed here, passed by")
            continue
        print(f"==== {name}", flush=True)
        code, last_line = _pytest(tests, os.environ | environment)
        codes.append(code)
        closing_lines.append(f"{name}: {last_line}")
    print("\n".join(closing_lines))
    return max(codes, default=1)


def _pytest(tests: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run pytest and let its output through; return its exit code and last line."""
    last_line = ""
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", *tests],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            last_line = line.strip() or last_line
    return process.returncode, last_line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
