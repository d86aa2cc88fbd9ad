"""Writes docs/faults.md from what a run of these tests put on record (see ROTA_RECORD).

``python -m tests.faults.report RECORD [--soak LOG]``; without a new log, the page keeps the soak
that it has, and always what `make ha` has written.
"""

import argparse
import json
import os
import platform
import re
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from rota.db.embedded import binaries
from tests.conftest import SERVER_VERSION
from tests.history.check import Figures

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
SOAK = "## The soak on record\n"
LOST_NODES = "## Lost nodes\n"

FAULTS = {
    "f1": "a worker dies at a named point, or a reply to its commit is lost",
    "f2": "sessions are ended by an administrator",
    "f3": "one backend is killed",
    "f4": "the server crashes again and again",
    "f5": "a crash takes claims that were not durable yet",
    "f7": "the network is partitioned, both ways or one way",
    "f8": "a connection looks alive and is not",
    "f9": "a worker stands still past its lease, then goes on",
    "f10": "a handler holds the interpreter's lock",
    "f11": "failover to a synchronous standby; connected to a standby (F13)",
    "f12": "failover to an asynchronous standby",
    "f14": "the disk is full: data, then WAL",
    "f15": "connections are exhausted",
    "f16": "timeouts are set low",
    "f18": "the caller's transaction is isolated",
    "f19": "an old snapshot is held",
    "f20": "nothing is vacuumed",
    "f22": "notifications are forged by the thousand, a listener never listens",
    "f23": "the server's clock jumps by hours and days",
    "f25": "results and errors cannot be stored",
    "f26": "a job kills its worker",
    "f27": "a worker does not know the task",
    "f28": "a whole fleet reconnects",
    "f29": "a pooler in transaction mode stands between",
    "f32": "the table is locked",
    "f34": "a handler forks",
    "f35": "the API is killed in the midst of a request, and the client repeats it",
}

HEAD = """\
# Faults: what was done to Rota, and what was seen

This page is written by `make faults`; do not edit it. Each row is a test that injects the fault
into the real worker or API, against a real server of its own. When the fault is over, all is
drained and stopped, `check_invariants()` must be empty, and a checker (`tests/history/check.py`)
goes through the recorded history of every call. It decides that

- each acknowledged enqueue is exactly one job, each refused one none, each unknown one at most one;
- no two leases of a job were live at one time, and none was taken back before it ran out, but from
  a process that was dead;
- a finish was accepted if, and only if, it ended that attempt, no attempt was ended by anybody but
  its holder, and each job ended once;
- each claim charged one attempt, and each attempt is on record;
- no claim passed by a job that had precedence and was free all along;
- no job started before those on which it depends had ended, and what became of it is what became of
  them and its policy; who awaited an event heard of the first of its name; no step that was
  recorded was done again;
- each second run of a handler is explained by a lease that ran out, or by a death.

A run in which too little happened to prove anything fails as well. A run that failed leaves its
history, which `python -m tests.history.check FOLDER` decides again, and its seed, with which
`ROTA_SEED=… python -m pytest …` repeats it. With `ROTA_FAULTS=all` before it, a command runs the
long form, which is the one on record here.
"""

TAIL = """\
## Not injected

- F6, storage that lies about fsync, or tears pages: that needs a device of its own. Leave
  `fsync`, `full_page_writes` and the data checksums on.
- F17 (deadlocks with code that locks the same rows), F21, F24 and F33 are not faults of a running
  system but races and rules: the tests in `tests/concurrency`, `tests/model` and `tests/schedules`
  are about them.
- F30 and F31 (an upgrade under load, a clone that wakes up elsewhere) are not tested here.
- A machine that vanishes without a word (no reset, no acknowledgement) is left to the kernel's
  `tcp_user_timeout`, which worker and API set; the proxy of these tests can only be silent.
"""


@dataclass
class Seen:
    """What was seen in all runs of one test."""

    outcomes: Counter[str] = field(default_factory=Counter)
    functions: set[str] = field(default_factory=set)
    figures: Figures = field(default_factory=Figures)
    seconds: float = 0.0


def read(record: Path) -> dict[str, Seen]:
    """Return what is on record, by test."""
    seen: dict[str, Seen] = defaultdict(Seen)
    for line in map(json.loads, record.read_text().splitlines()):
        test = seen[line["test"].split("[")[0]]
        if "outcome" in line:
            test.outcomes[line["outcome"]] += 1
            test.seconds += line["seconds"]
            test.functions.add(line["functions"][:12])
        else:
            test.figures.add(Figures(**line["figures"]))
    return dict(seen)


def row(test: str, seen: Seen) -> str:
    """Return one line of the table."""
    path, name = test.split("::")
    sentence = name.removeprefix("test_")
    number = re.match(r"f\d+(?=_)", sentence)
    fault = f"{number[0].upper()}: {FAULTS[number[0]]}" if number else "several"
    promise = re.sub(r"^(f\d+_)+", "", sentence).replace("_", " ")
    figures = seen.figures
    outcome = ", ".join(f"{count} {outcome}" for outcome, count in sorted(seen.outcomes.items()))
    if figures.jobs:
        outcome += (
            f"; jobs {figures.jobs}, attempts {figures.attempts}, "
            f"late finishes refused {figures.late_finishes_refused}, "
            f"duplicates explained {figures.duplicates_explained}, "
            f"lost {figures.lost}, unexplained {figures.unexplained}"
        )
    if figures.naps:
        outcome += f", sleeps and waits {figures.naps}, events heard {figures.events}"
    command = f"python -m pytest {path} -k {name}"
    return f"| {fault} | {promise} | `{command}` | {outcome} |"


def order(test: str) -> tuple[int, str]:
    """Order tests by the number of their fault; the others come last."""
    number = re.search(r"::test_f(\d+)_", test)
    return (int(number[1]) if number else 1000, test)


def versions(functions: set[str]) -> str:
    """Say on what the tests ran."""
    folder = binaries(SERVER_VERSION)
    server = subprocess.run([f"{folder}/postgres", "--version"], capture_output=True, text=True)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, functions {', '.join(sorted(functions))}, "
        f"{server.stdout.strip()}, Python {platform.python_version()}, "
        f"psycopg {psycopg.__version__}, {os.cpu_count()} cores"
    )


def section(page: str, heading: str) -> str:
    """Return a section of a page, from its heading to the next one; nothing if it has none."""
    if heading not in page:
        return ""
    start = page.index(heading)
    end = page.find("\n## ", start + 1)
    return page[start : end + 1 if end >= 0 else None].rstrip("\n") + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write docs/faults.md.")
    parser.add_argument("record", type=Path)
    parser.add_argument("--soak", type=Path, help="the output of python -m tests.soak")
    options = parser.parse_args()
    tests = read(options.record)
    rows = [row(test, tests[test]) for test in sorted(tests, key=order)]
    table = "\n".join(["| fault | promise | command | seen |", "| --- | --- | --- | --- |", *rows])

    soak = "None yet.\n"
    if options.soak:
        log = options.soak.read_text()
        functions = set(re.findall(r"^rota (\w+) is deployed", log, re.M))
        broken = [line for line in log.splitlines() if "BROKEN" in line]
        last = log.strip().splitlines()[-1]
        soak = f"{versions(functions)}.\n\n" + "\n\n".join([f"{last}.", *broken]) + "\n"
    elif PAGE.exists() and SOAK in PAGE.read_text():
        soak = PAGE.read_text().split(SOAK)[1].split("\n## ")[0].split("\n\n", 1)[1].strip() + "\n"
    functions = {version for seen in tests.values() for version in seen.functions}
    parts = [
        HEAD,
        f"## Each fault by itself\n\n{versions(functions)}.\n\n{table}\n",
        f"{SOAK}\nBy `make soak MINUTES=30`; the line says how long it went.\n\n{soak}",
        *filter(None, [section(PAGE.read_text() if PAGE.exists() else "", LOST_NODES)]),
        TAIL,
    ]
    PAGE.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
