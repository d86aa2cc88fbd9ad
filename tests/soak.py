"""All faults in rotation, for as long as one likes: ``python -m tests.soak --minutes 30``.

It goes in rounds. In each, a producer and three workers are at work on a database of their own
while every fault that can befall a running system does so, in an order that the seed decides; then
all is healed, drained and checked. Between two rounds comes one of the faults that need a server
of their own: a full disk, a clock that jumps, a standby that takes over, a pooler. Rounds are
begun until the time is over or SIGTERM comes; a second one ends it at once. The last line sums up;
the exit code is 1 if a promise was broken.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.db.gateway import call
from tests.conftest import SERVER_VERSION, roomy_memory
from tests.faults.conftest import SETTINGS, TEMPLATE
from tests.faults.harness import (
    BOOKS,
    DROP_SESSIONS,
    LEASE,
    REPOSITORY,
    House,
    Worker,
    assert_balanced,
)
from tests.faults.proxy import Proxy
from tests.history.check import Figures
from tests.waiting import wait_until

CALM = (0.5, 2.0)  # seconds between two faults
PAUSE = 0.1  # seconds between two jobs

# With servers of their own.
ELSEWHERE = ["f14", "f23", "f29", "f11", "f12", "f5", "f25", "f27", "f34", "f35", "f28", "f18"]
ELSEWHERE += ["http", "limits", "workflows"]  # over HTTP; jobs with keys; that wait for others
FOLDERS = [
    "tests/faults",
    "tests/api/test_example_workers.py",
    "tests/concurrency/test_limits_stress.py",
    "tests/concurrency/test_workflow_stress.py",
]
STRESS_SECONDS = 180  # of the last two


class Round:
    """One database under every fault."""

    def __init__(self, house: House, proxy: Proxy) -> None:
        self.house = house
        self.proxy = proxy
        self.random = house.random
        self.ended = threading.Event()

    def faults(self) -> list[Callable[[], None]]:
        """Return every fault, in this round's order."""
        faults = [
            self.kill_worker,
            self.stop_worker,
            self.lose_claim,
            self.lose_finish,
            self.partition,
            self.half_open,
            self.cut,
            self.delay,
            self.terminate,
            self.cancel,
            self.kill_backend,
            lambda: self.house.crash("kill"),
            lambda: self.house.crash("immediate"),
            self.exhaust,
            self.lock_table,
            self.old_snapshot,
            self.forge,
            self.hold_interpreter,
            self.poison,
        ]
        self.random.shuffle(faults)
        return faults

    def run(self) -> Figures:
        """Let it all happen; return the figures if every promise was kept."""
        house, proxied = self.house, self.proxy.url(self.house.dbname)
        house.execute(BOOKS)
        with psycopg.connect(house.url, autocommit=True) as conn:
            payload = Jsonb({})
            [interval] = call(
                conn, "schedule_job", task="always_fails", payload=payload, every="1 s"
            )
        with (
            house.fleet(2),
            house.fleet(1, url=proxied),
            ThreadPoolExecutor(1) as pool,
        ):
            producer = pool.submit(self.produce)
            try:
                for fault in self.faults():
                    time.sleep(self.random.uniform(*CALM))
                    fault()
                    wait_until(self.answers)
            finally:
                self.ended.set()
            producer.result(60)
            house.drain()
        report = house.decide(jobs=200, faults=19, late=1, naps=1, events=1)
        assert_balanced(house, self.transfers_made())
        state, run = house.execute(
            "select state, run from rota.jobs where id = %s", interval["job_id"]
        )[0]
        assert state == "SCHEDULED", f"the interval job is {state}"
        assert run > 10, f"the interval job came to its run {run} only"
        return report.figures

    def produce(self) -> None:
        """Enqueue jobs of several kinds until told to stop, some of them through the proxy."""
        chance = random.Random(self.house.seed)
        while not self.ended.is_set():
            url = self.proxy.url(self.house.dbname) if chance.random() < 0.3 else None
            if chance.random() < 0.05:
                self.house.weave(url=url)
                self.house.produce_in_steps(1, url, PAUSE, self.ended)
            task = "transfer" if chance.random() < 0.2 else "work"
            seconds = LEASE * 1.5 if chance.random() < 0.03 else chance.uniform(0, 0.3)
            payload = {"seconds": seconds, "fail": 0.2}
            priority = chance.choice([0, 0, 0, 5])
            self.house.produce(
                1, url, PAUSE, self.ended, task=task, payload=payload, priority=priority
            )

    def transfers_made(self) -> int:
        """Return how many transfers the database says were made."""
        return self.house.value(
            "select count(*) from rota.jobs where task = 'transfer' and state = 'COMPLETED'"
        )

    def answers(self) -> bool:
        """Tell whether the server takes connections."""
        with contextlib.suppress(psycopg.Error):
            return self.house.value("select true")
        return False

    def victim(self) -> Worker:
        """Choose a worker that is up."""

        def up() -> list[Worker]:
            return [
                worker
                for worker in self.house.workers
                if worker.alive and '"started"' in worker.log.read_text()
            ]

        return self.random.choice(wait_until(up))

    # -- the faults ----------------------------------------------------------------------------

    def kill_worker(self) -> None:
        self.house.kill(self.victim())

    def stop_worker(self) -> None:
        before = self.house.effects("start")
        self.house.produce(16, payload={"seconds": 0.5})
        wait_until(lambda: self.house.effects("start") > before + 8)
        with self.house.stopped(self.victim()):
            time.sleep(LEASE * 1.5)
            self.house.execute("select rota.recover_jobs()")

    def lose_claim(self) -> None:
        self._lose("claim_next_job")

    def lose_finish(self) -> None:
        self._lose("finish_jobs")

    def _lose(self, function: str) -> None:
        with self.house.fault(f"reply to {function} lost", "network"):
            self.proxy.swallow_reply(function)
            self.proxy.swallowed.wait(10)

    def partition(self) -> None:
        directions = self.random.choice([("up", "down"), ("up",), ("down",)])
        with self.house.fault("partition", "network"):
            self.proxy.silence(*directions)
            time.sleep(LEASE * 1.5)
            self.house.execute("select rota.recover_jobs()")
            self.proxy.heal()

    def half_open(self) -> None:
        with self.house.fault("half-open", "network"):
            self.proxy.swallow_reply("heartbeat_jobs", keep_open=True)
            if self.proxy.swallowed.wait(10):
                time.sleep(LEASE * 1.5)
            self.proxy.cut()

    def cut(self) -> None:
        for _ in range(5):
            with self.house.fault("connections cut", "network"):
                self.proxy.cut()
            time.sleep(self.random.uniform(0.05, 0.5))

    def delay(self) -> None:
        with self.house.fault("delay", "network"):
            self.proxy.delay(0.1)
            time.sleep(3)
            self.proxy.heal()

    def terminate(self) -> None:
        self._drop("pg_terminate_backend")

    def cancel(self) -> None:
        self._drop("pg_cancel_backend")

    def _drop(self, function: str) -> None:
        for _ in range(5):
            with self.house.fault(function, "server"):
                self.house.execute(DROP_SESSIONS.format(function=function))
            time.sleep(self.random.uniform(0.05, 0.5))

    def kill_backend(self) -> None:
        pids = self.house.execute(
            """
            select a.pid from pg_stat_activity as a
            where a.datname = current_database() and a.application_name like 'rota worker%%'
            """
        )
        with self.house.fault("backend SIGKILL", "server"):
            if pids:
                os.kill(self.random.choice(pids)[0], signal.SIGKILL)
            wait_until(self.answers)

    def exhaust(self) -> None:
        crowd: list[psycopg.Connection] = []
        with self.house.fault("connections exhausted", "server"):
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    crowd.append(psycopg.connect(self.house.url))
            time.sleep(2)
            for conn in crowd:
                conn.close()

    def lock_table(self) -> None:
        with (
            self.house.fault("access exclusive lock", "server"),
            psycopg.connect(self.house.url) as conn,
        ):
            conn.execute("lock table rota.live_jobs in access exclusive mode")
            time.sleep(1.5)

    def old_snapshot(self) -> None:
        with self.house.fault("old snapshot", "server"), psycopg.connect(self.house.url) as conn:
            conn.execute("set transaction isolation level repeatable read")
            conn.execute("select count(*) from rota.live_jobs")
            self.house.produce(100)

    def forge(self) -> None:
        with (
            self.house.fault("forged notifications", "server"),
            psycopg.connect(self.house.url, autocommit=True) as conn,
        ):
            for _ in range(500):
                conn.execute("select pg_notify('rota_jobs', repeat('x', 1000))")

    def hold_interpreter(self) -> None:
        with self.house.fault("interpreter held", "server"):
            before = self.house.effects("start")
            self.house.produce(1, task="hold_interpreter", payload={"seconds": LEASE * 1.5})
            wait_until(lambda: self.house.effects("start") > before)
            time.sleep(LEASE * 1.5)

    def poison(self) -> None:
        how = self.random.choice(["kill", "exit", "segfault"])
        with self.house.fault("poison", "server"):
            self.house.produce(1, task="poison", max_retries=1, payload={"how": how})
            wait_until(
                lambda: (
                    self.house.value("select count(*) from rota.live_jobs where task = 'poison'")
                    == 0
                ),
                60,
            )


def elsewhere(name: str, record: Path, seed: int) -> bool:
    """Run the faults of that name, which have a server of their own; return whether all passed."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *FOLDERS, "-k", f"test_{name}_"],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "ROTA_RECORD": str(record),
            "ROTA_SEED": str(seed),
            "ROTA_FAULTS": "all",
            "ROTA_STRESS_SECONDS": str(STRESS_SECONDS),
        },
        capture_output=True,
        text=True,
    )
    if run.returncode:
        print(run.stdout[-6000:], flush=True)
    return run.returncode == 0


def main() -> int:
    """Run rounds; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description="All faults in rotation.")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--folder", type=Path, default=None, help="where the histories go")
    options = parser.parse_args()
    enough = threading.Event()

    def stop(number: int, frame: object) -> None:
        if enough.is_set():
            sys.exit(128 + number)
        enough.set()

    signal.signal(signal.SIGTERM, stop)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="rota-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "elsewhere.jsonl"
    print(f"seed {options.seed}, {options.minutes:g} minutes, histories in {folder}", flush=True)

    total = Figures()
    broken = 0
    began = time.monotonic()
    rounds = 0

    def going() -> bool:
        return not enough.is_set() and time.monotonic() - began < options.minutes * 60

    with (
        tempfile.TemporaryDirectory(prefix="rota-soak-", dir=roomy_memory()) as data,
        Cluster(Path(data) / "pg", SERVER_VERSION, SETTINGS) as cluster,
        Proxy(cluster.data_dir / ".s.PGSQL.5432") as proxy,
    ):
        with psycopg.connect(cluster.url(), autocommit=True) as conn:
            conn.execute(f"create database {TEMPLATE}")
        deploy(cluster.url(TEMPLATE))
        while rounds == 0 or going():
            seed = options.seed + rounds
            place = folder / f"round-{rounds}"
            place.mkdir()
            with psycopg.connect(cluster.url(), autocommit=True) as conn:
                conn.execute(f"create database round_{rounds} template {TEMPLATE}")
            house = House(cluster, f"round_{rounds}", place, seed)
            try:
                figures = Round(house, proxy).run()
                total.add(figures)
                print(f"round {rounds}, seed {seed}: {figures.line()}", flush=True)
            except Exception as error:
                broken += 1
                print(f"round {rounds}, seed {seed}: BROKEN: {error}", flush=True)
            finally:
                house.close()
            if going():
                name = ELSEWHERE[rounds % len(ELSEWHERE)]
                passed = elsewhere(name, record, seed)
                broken += not passed
                print(f"round {rounds}, {name}: {'passed' if passed else 'BROKEN'}", flush=True)
            rounds += 1
    if record.exists():
        for line in map(json.loads, record.read_text().splitlines()):
            if "figures" in line:
                total.add(Figures(**line["figures"]))
    minutes = (time.monotonic() - began) / 60
    print(
        f"seed {options.seed}, {minutes:.0f} minutes, {rounds} rounds, {broken} broken: "
        f"{total.line()}",
        flush=True,
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
