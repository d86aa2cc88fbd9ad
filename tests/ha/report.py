"""Writes the section of docs/faults.md about lost nodes: ``python -m tests.ha.report RECORD``."""

import argparse
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.faults.report import LOST_NODES, PAGE, TAIL, section, versions
from tests.ha.trio import LOOP_WAIT, RETRY_TIMEOUT, TTL, patroni

MODES = {
    "h1": "synchronous, all hosts in the URL",
    "h2": "asynchronous, all hosts in the URL",
    "h3": "asynchronous, behind HAProxy",
}

HEAD = f"""\
By `make ha`, which writes this section: three servers under Patroni (ttl {TTL}, loop_wait
{LOOP_WAIT}, retry_timeout {RETRY_TIMEOUT}), etcd and HAProxy on loopback; two workers with a lease
of 5 seconds, a producer in SQL, one over HTTP, and two probes, of `/health/ready` and of
`/health/ready?write=1`, each a quarter of a second after its last answer. The same checker decides,
and that no id was acknowledged for two jobs; in synchronous mode nothing that was acknowledged may
be lost. Seconds are those for which no handler started, and no enqueue was acknowledged; the two
last columns count the probes that were answered 503.
"""


def mode(test: str) -> str:
    """Return in which mode a test ran."""
    number = re.search(r"::test_(h\d)_", test)
    return MODES[number[1]] if number else "?"


def table(lines: list[dict[str, Any]]) -> str:
    """Return a row for each fault, and a line for each run."""
    rows = [
        "| mode, way to the primary | fault | no start for | no enqueue for | ready | write=1 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    sums = []
    for line in lines:
        for row in line["rows"]:
            rows.append(
                f"| {mode(line['test'])} | {row['fault']} | {row['no start for']} s"
                f" | {row['no enqueue for']} s | {row['ready 503']} | {row['write 503']} |"
            )
        name = line["test"].split("::")[1]
        sums.append(
            f"- {mode(line['test'])} (`ROTA_HA=all python -m pytest tests/ha -k {name}`):"
            f" {line['line']}."
        )
    return "\n".join([*rows, "", *sums])


def main() -> None:
    """Write the section."""
    parser = argparse.ArgumentParser(description="Write the section about lost nodes.")
    parser.add_argument("record", type=Path)
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.record.read_text().splitlines()]
    outcomes = [line for line in lines if "outcome" in line]
    if [line for line in outcomes if line["outcome"] == "skipped"] or not outcomes:
        print("the drill did not run, and nothing is written")
        return
    command, environment = patroni()
    version = subprocess.run(
        [*command, "--version"], env=environment, cwd="/", capture_output=True, text=True
    ).stdout.split()[-1]
    functions = {line["functions"][:12] for line in outcomes}
    said = f"{versions(functions)}, Patroni {version}."
    shown = table([line for line in lines if "rows" in line])
    text = f"{LOST_NODES}\n{HEAD}\n{said}\n\n{shown}\n"
    page = PAGE.read_text()
    old = section(page, LOST_NODES)
    page = page.replace(old, text) if old else page.replace(TAIL, f"{text}\n{TAIL}")
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
