"""What several databases cost on the cores of one: ``python -m bench.shards``, some minutes.

The same jobs, in one database or spread over two and four of one server, are enqueued in bulk by
one process and drained by one worker process. A second server is not to be had on two cores, so
what is shown is the overhead, as a ratio to one database: no gain is to be expected here. The three
take turns in every round, and a figure is the median of the ratios of a round. Beside the clock
there is the time that the worker and the server's processes for it worked, which others on the
machine do not change, without what a worker takes that starts and finds nothing.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil
import psycopg

from bench.waiting import until
from rota.db.deploy import deploy, number
from rota.db.embedded import Cluster

NUMBERS = (1, 2, 4)
JOBS = 150_000
BATCH = 1000
ROUNDS = 3
IDLE = 2.5  # seconds
WORKER = ("-m", "rota.worker", "--tasks", "rota.demo.tasks", "--log-level", "WARNING")
ENQUEUE = "select count(*) from rota.enqueue_many('echo', %s)"
PAYLOADS = "[" + ",".join(['{"to": "ada@example.com"}'] * BATCH) + "]"
LEFT = "select not exists (select from rota.live_jobs)"
SPAN = "select min(started_at), max(finished_at) from rota.job_executions"


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="rota-bench-") as folder:
        cluster = Cluster(Path(folder) / "server", 18, {"shared_buffers": "512MB"})
        with cluster:
            rounds = [{n: _round(cluster, n) for n in NUMBERS} for _ in range(ROUNDS + 1)][1:]
    for place, what in enumerate(("enqueued", "drained", "drained, of a second of work")):
        for n in NUMBERS:
            rate = median(of[n][place] for of in rounds)
            ratio = median(of[n][place] / of[1][place] for of in rounds)
            print(f"{n} databases, {what}: {rate:,.0f} jobs/s, {ratio:.2f} of one", flush=True)


def _worked(cluster: Cluster) -> float:
    """Return for how long children of ours and of the server worked that have ended, in seconds."""
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    its = psutil.Process(cluster.pid).cpu_times()
    return ours.ru_utime + ours.ru_stime + its.children_user + its.children_system


def _round(cluster: Cluster, n: int) -> tuple[float, float, float]:
    """Return jobs a second enqueued and drained, and drained of a second of work."""
    with _databases(cluster, n) as urls:
        conns = [psycopg.connect(url, autocommit=True) for url in urls]
        options = [part for url in urls for part in ("--database", url)]
        before = _worked(cluster)
        _work(options, conns, IDLE)
        start = _worked(cluster) - before
        began = time.monotonic()
        for batch in range(JOBS // BATCH):
            conns[batch % n].execute(ENQUEUE, [PAYLOADS])
        enqueued = JOBS / (time.monotonic() - began)
        for conn in conns:
            conn.execute("vacuum analyze")
        conns[0].execute("checkpoint")
        before = _worked(cluster)
        _work(options, conns, 0.0)
        worked = _worked(cluster) - before - start
        spans = [conn.execute(SPAN).fetchone() for conn in conns]
        for conn in conns:
            conn.close()
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    return enqueued, JOBS / (last - first).total_seconds(), JOBS / worked


def _work(options: list[str], conns: list[psycopg.Connection], seconds: float) -> None:
    """Run a worker for so long, and until no job is left."""
    worker = subprocess.Popen(
        [sys.executable, *WORKER, "--concurrency", "2", *options], env=os.environ
    )
    try:
        time.sleep(seconds)
        until(
            lambda: all(conn.execute(LEFT).fetchone() == (True,) for conn in conns),
            "all jobs to have ended",
        )
    finally:
        worker.terminate()
        worker.wait()
        time.sleep(0.5)  # for the server's processes to end, too


@contextmanager
def _databases(cluster: Cluster, n: int) -> Iterator[list[str]]:
    names = [f"shard_{place}" for place in range(n)]
    with psycopg.connect(cluster.url(), autocommit=True) as admin:
        for name in names:
            admin.execute(f"create database {name}")
            deploy(cluster.url(name), report=lambda line: None)
        urls = [cluster.url(name) for name in names]
        if n > 1:
            number(urls, report=lambda line: None)
        yield urls
        for name in names:
            admin.execute(f"drop database {name} with (force)")


if __name__ == "__main__":
    main()
