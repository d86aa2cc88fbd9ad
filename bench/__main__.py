"""Run the benchmark: ``python -m bench [--size short]``."""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench import report
from bench.contestants import PEERS, ROTA, Contestant
from bench.measure.drain import backlog, bulk, drain
from bench.measure.enqueue import enqueue
from bench.measure.http import http_rates, http_start
from bench.measure.idle import empty_claim, idle_worker
from bench.measure.keys import keys
from bench.measure.latency import latency, middle
from bench.measure.limit import limit
from bench.measure.limited_keys import limited_keys
from bench.measure.retention import retention
from bench.measure.snapshot import snapshot
from bench.measure.statistics import statistics
from bench.measure.workflows import workflows
from bench.server import Server
from bench.sizes import BY_NAME, Sizes

RESULTS = Path(__file__).parent / "results"

Results = dict[str, Any]


def main() -> int:
    """Measure, and write the results; return 1 if a measurement of Rota's failed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Rota and peers.")
    parser.add_argument("--size", choices=BY_NAME, default="full", help="how much (default: full)")
    parser.add_argument("--version", type=int, default=18, help="PostgreSQL's (default: 18)")
    parser.add_argument(
        "--only", help="measure these again, by the start of their names, and keep the others"
    )
    options = parser.parse_args()
    sizes = BY_NAME[options.size]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="rota-bench-") as folder:
        server = Server(Path(folder) / "server", options.version)
        with server.cluster:
            run = Run(server, sizes, options.only or "")
            try:
                run.all()
            finally:  # what there is, also when somebody has lost patience
                results = merged(run.results, RESULTS / f"{options.size}.json", options.only)
                report.write(results, RESULTS, options.size)
    return 1 if run.failed else 0


def merged(results: Results, file: Path, only: str | None) -> Results:
    """Return the results on file with those parts replaced that were measured again."""
    if only is None or not file.exists():
        return results
    before = json.loads(file.read_text())
    about = {"machine", "load", "postgresql", "versions", "missing", "at", "settings", "minutes"}
    again = results.keys() - about
    times = before.get("again", {}) | dict.fromkeys(again, results["at"])
    return before | {name: results[name] for name in again} | {"again": times}


class Run:
    """One run: each measurement of each contestant, the contestants of one beside each other."""

    def __init__(self, server: Server, sizes: Sizes, only: str) -> None:
        self._server = server
        self._sizes = sizes
        self._only = tuple(only.split(","))
        self.failed = False
        self._peers = tuple(peer for peer in PEERS if peer.available)
        self.results: Results = {
            "machine": _machine(),
            "load": os.getloadavg()[1],
            "postgresql": server.version(),
            "versions": {c.name: c.version for c in (ROTA, *self._peers)},
            "missing": [peer.name for peer in PEERS if not peer.available],
            "at": datetime.now(UTC).isoformat(timespec="minutes"),
            "settings": {c.name: c.workers for c in (ROTA, *self._peers)},
        }

    def all(self) -> None:
        """Measure everything."""
        server, sizes = self._server, self._sizes
        self._rota("limit", lambda: limit(server, sizes))
        self._rota("keys", lambda: keys(server, sizes))
        self._rota("workflows", lambda: workflows(server, sizes))
        who = [c for c in (ROTA, *self._peers) if c.keyed]
        self._each("key limits", lambda c: limited_keys(server, c, sizes), who)
        self._rota("statistics", lambda: statistics(server, sizes))
        self._rota("retention", lambda: retention(server, sizes))
        self._each("drain", lambda c: drain(server, c, sizes))
        self._each("bulk", lambda c: bulk(server, c, sizes))
        self._each("enqueue", lambda c: enqueue(server, c, sizes))
        self._each("latency", lambda c: latency(server, c, sizes), rounds=sizes.start_rounds)
        self._rota("http start", lambda: http_start(server, sizes))
        self._rota("http rates", lambda: http_rates(server, sizes))
        self._rota("empty claim", lambda: empty_claim(server, sizes))
        for jobs in sizes.backlogs:
            who = [c for c in (ROTA, *self._peers) if jobs <= sizes.most_waiting(c)]
            self._each(f"backlog {jobs}", lambda c: backlog(server, c, sizes, jobs), who)  # noqa: B023
        who = (ROTA, *self._peers) if sizes.idle_peers else (ROTA,)
        self._each("idle", lambda c: idle_worker(server, c, sizes), who)
        self._each("snapshot", lambda c: snapshot(server, c, sizes, sizes.snapshot_jobs), (ROTA,))
        if sizes.peer_snapshot_jobs:
            self._each(
                "snapshot, peers",
                lambda c: snapshot(server, c, sizes, sizes.peer_snapshot_jobs),
                self._peers,
            )

    def _each(
        self,
        name: str,
        measure: Callable[[Contestant], Any],
        who: Sequence[Contestant] | None = None,
        rounds: int = 1,
    ) -> None:
        """Measure one after the other; several rounds go through all of them before the next."""
        if not name.startswith(self._only):
            return
        found: dict[str, list[Any]] = {}
        for _ in range(rounds):
            for contestant in who or (ROTA, *self._peers):
                result = self._try(
                    f"{name}: {contestant.name}",
                    lambda: measure(contestant),  # noqa: B023
                    contestant is ROTA,
                )
                found.setdefault(contestant.name, []).append(result)
        self.results[name] = {
            who: results[0] if rounds == 1 or None in results else middle(results)
            for who, results in found.items()
        }

    def _rota(self, name: str, measure: Callable[[], Any]) -> None:
        if name.startswith(self._only):
            self.results[name] = self._try(name, measure, True)

    def _try(self, name: str, measure: Callable[[], Any], ours: bool) -> Any:
        """Return the result, or None for a measurement that failed: the others go on."""
        began = time.monotonic()
        try:
            result = measure()
        except Exception as error:
            self.failed = self.failed or ours
            print(f"{name}: failed: {type(error).__name__}: {error}", file=sys.stderr)
            return None
        finally:
            seconds = time.monotonic() - began
            self.results["minutes"] = self.results.get("minutes", 0.0) + seconds / 60
        shown = {k: v for k, v in result.items() if k != "series"}
        print(f"{name} ({seconds:.0f} s): {json.dumps(shown)}", flush=True)
        return result


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(": ")[2] if names else model
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} CPUs ({model}), {memory:.0f} GiB, {platform.system()}"
        f" {platform.release()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
