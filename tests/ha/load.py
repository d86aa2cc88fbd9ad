"""Who uses a house while its nodes are lost: producers, the API, a load balancer's probe."""

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count, pairwise
from typing import Any

from tests.faults.harness import House
from tests.ha.trio import free_ports
from tests.waiting import wait_until

PAUSE = 0.03  # seconds between two jobs of a producer
PROBED_EVERY = 0.25
SHORTEST, LONGEST = 0.01, 0.15  # seconds that a job takes, but for one in 25
LONG = 4.0
LEASE = 5.0
STARTS_WITHIN = 30.0
ANSWERS_WITHIN = 40.0


class Api:
    """``rota api`` on a house, and one client of it."""

    def __init__(self, house: House, url: str) -> None:
        self.house = house
        [self.port] = free_ports(1)
        environment = {**os.environ, "DATABASE_URL": url, "PORT": str(self.port)}
        environment["HOST"] = "127.0.0.1"
        log = house.folder / "api.log"
        self.process = house.run(["-m", "rota.app"], environment, log)
        self._keys = count(1)
        wait_until(lambda: self.ask("GET", "/health/ready")[0] == 200, STARTS_WITHIN, every=0.1)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """Send a request; return the status of its answer, 0 if there is none, and what it says."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWERS_WITHIN)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            return 0, {}
        finally:
            connection.close()

    def enqueue(self, seconds: float = 0.0) -> int:
        """Enqueue a job, on record as what a producer in SQL does; return the status."""
        history, key = self.house.history, f"api-{self.house.seed}-{next(self._keys)}"
        name = history.invoke("enqueue", key=key)
        payload = {"key": key, "seconds": seconds}
        job = {"task": "work", "max_retries": 20, "payload": payload}
        status, said = self.ask("POST", "/jobs", job)
        if status == 201:
            history.answer(name, "enqueue", "ok", value=said["job_id"])
        else:  # it may have happened
            history.answer(name, "enqueue", "unknown", status=status)
        return status

    def stop(self) -> int:
        """Stop it gently; return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(30)
        return -1


class Load:
    """Two producers and a probe, for as long as a block lasts."""

    def __init__(self, house: House, url: str, api: Api) -> None:
        self.house, self.url, self.api = house, url, api
        self.probes: list[tuple[float, str, int, float]] = []  # began, path, status, seconds
        self._random = random.Random(house.seed)
        self._ended = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Have them work during the block."""
        paths = ("/health/ready", "/health/ready?write=1")
        threads = [
            threading.Thread(target=self._produce),
            threading.Thread(target=self._produce_over_http),
            *(threading.Thread(target=self._probe, args=[path]) for path in paths),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join(ANSWERS_WITHIN)

    def _seconds(self) -> float:
        long = self._random.random() < 1 / 25
        return LONG if long else round(self._random.uniform(SHORTEST, LONGEST), 3)

    def _produce(self) -> None:
        while not self._ended.is_set():
            payload = {"seconds": self._seconds()}
            self.house.produce(10, self.url, PAUSE, self._ended, payload=payload)

    def _produce_over_http(self) -> None:
        while not self._ended.wait(2 * PAUSE):
            self.api.enqueue(self._seconds())

    def _probe(self, path: str) -> None:
        while not self._ended.wait(PROBED_EVERY):
            began = time.monotonic()
            status, _ = self.api.ask("GET", path)
            self.probes.append((began, path, status, time.monotonic() - began))

    def goes_on(self) -> None:
        """Wait until jobs are taken in, by both ways, and run."""
        done = self.house.effects("done")
        began = time.monotonic()
        wait_until(lambda: self.house.effects("done") >= done + 10, ANSWERS_WITHIN, every=0.1)
        wait_until(lambda: self.readied_since(began), ANSWERS_WITHIN, every=0.1)

    def readied_since(self, began: float) -> bool:
        """Tell whether a write was found to commit since then."""
        return any(
            status == 200 and path.endswith("write=1") and at > began
            for at, path, status, _ in self.probes
        )


def account(house: House, load: Load) -> list[dict[str, Any]]:
    """Return of each fault how long nothing started and nothing was taken in, and what was said."""

    def lines(name: str) -> list[dict[str, Any]]:
        text = (house.folder / f"{name}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    history = lines("history")
    starts = sorted(it["mono"] for it in lines("effects") if it["phase"] == "start")
    acknowledged = sorted(
        it["mono"] for it in history if it["op"] == "enqueue" and it["type"] == "ok"
    )
    begun = {it["call"]: it for it in history if it["op"] == "fault" and it["type"] == "invoke"}
    ends = {it["call"]: it["mono"] for it in history if it["op"] == "fault" and it["type"] == "ok"}

    def pause(moments: list[float], since: float, until: float) -> float:
        within = [it for it in moments if since - 1 <= it <= until + 5]
        return max((b - a for a, b in pairwise(within)), default=until - since)

    rows = []
    for call, fault in begun.items():
        since, until = fault["mono"], ends.get(call, time.monotonic())
        said = [it for it in load.probes if since <= it[0] <= until]
        rows.append(
            {
                "fault": fault["kind"],
                "no start for": round(pause(starts, since, until), 1),
                "no enqueue for": round(pause(acknowledged, since, until), 1),
                "ready 503": sum(it[2] == 503 for it in said if not it[1].endswith("=1")),
                "write 503": sum(it[2] == 503 for it in said if it[1].endswith("=1")),
                "slowest write": round(
                    max((it[3] for it in said if it[1].endswith("=1")), default=0.0), 1
                ),
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print what account returned."""
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()), file=sys.stderr)
