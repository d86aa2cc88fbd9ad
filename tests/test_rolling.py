"""Upgrades without a stop: workers and APIs of the last releases go on beside newer ones.

The order is that of docs/operations.md: deploy, then replace the processes one after the other.
"""

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.deploy import deploy
from rota.db.gateway import call
from rota.db.version import FOLDER
from tests import locks
from tests.api.conftest import Server, free_port
from tests.releases import NAMES, MissingReleaseError, Release, check_out
from tests.waiting import wait_until
from tests.worker.conftest import WorkerProcess


@pytest.fixture(scope="module", params=NAMES)
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Release:
    try:
        return check_out(request.param, tmp_path_factory.mktemp(request.param))
    except MissingReleaseError as error:
        pytest.skip(str(error))


@pytest.fixture
def old(release: Release, empty_db: str) -> Iterator[Connection]:
    """A database of that release."""
    release.deploy(empty_db)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        yield conn


class Process:
    """A program of a release, with its log."""

    def __init__(self, process: Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = self.log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @property
    def complaints(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["level"] in ("ERROR", "CRITICAL")]

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)


@pytest.fixture
def start(release: Release, empty_db: str, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start programs of the release; those left at the end are killed."""
    started: list[Process] = []

    def one(*arguments: str, **environment: str) -> Process:
        log = tmp_path / f"{release.name}-{len(started)}.log"
        with log.open("wb") as output:
            process = release.start(*arguments, log=output, DATABASE_URL=empty_db, **environment)
        started.append(Process(process, log))
        return started[-1]

    yield one
    for program in started:
        program.process.kill()
        program.process.wait()


class Client(threading.Thread):
    """Asks an API for all that it has to offer, over and over, and notes what it is not given."""

    def __init__(self, release: Release, url: str, number: int) -> None:
        super().__init__(daemon=True)
        self.release, self.url, self.number = release, url, number
        self.going, self.turns = True, 0
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []
        self.made: list[int] = []

    def run(self) -> None:
        while self.going:
            try:
                self.turn()
            except (OSError, AssertionError, KeyError, TypeError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            self.turns += 1

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request, again if it is told to; return what was answered."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        for _ in range(5):
            request = urllib.request.Request(self.url + path, data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    status, text = response.status, response.read().decode()
            except urllib.error.HTTPError as error:
                status, text = error.code, error.read().decode()
            self.statuses[status] += 1
            if status != 503:
                break
            time.sleep(0.1)
        assert status < 300, f"{method} {path}: {status} {text[:500]}"
        return json.loads(text) if text and text[0] in "[{" else text

    def job(self, **more: Any) -> str:
        """Enqueue a job for the workers; return its path."""
        job_id = self.ask("POST", "/jobs", {"task": "work", "payload": {}} | more)["job_id"]
        self.made.append(job_id)
        return f"/jobs/{job_id}"

    def turn(self) -> None:
        for deed in (self.look, self.work, self.steer, self.schedule, self.keys, self.weave):
            deed()

    def look(self) -> None:
        job = self.job(payload={"fails": self.turns % 2}, max_retries=5, headers={"a": "b"})
        self.job(unique_key=f"{self.number} {self.turns}", priority=5)
        jobs = [{"task": "work", "payload": {"n": n}} for n in range(3)]
        rows = self.ask("POST", "/jobs/bulk", {"jobs": jobs})
        self.made += [row["job_id"] for row in rows["jobs"]]
        for path in (
            *(job, f"{job}/executions", f"{job}/why", "/jobs?limit=20", "/jobs/counts", "/queues"),
            *("/workers", "/schedules", "/metrics", "/doctor", "/ui/", "/ui/jobs", "/ui/workers"),
        ):
            self.ask("GET", path)

    def work(self) -> None:
        """Over HTTP, in a queue of our own."""
        queue = f"http {self.number}"
        for _ in range(3):
            self.job(queue=queue, max_retries=9)
        claim = {"worker": f"http {self.number}", "lease_seconds": 60, "max_jobs": 3}
        path = f"/queues/{queue.replace(' ', '%20')}/claim"
        first, second, third = self.ask("POST", path, claim)["jobs"]
        held = {"token": first["token"]}
        self.ask("POST", f"/jobs/{first['id']}/heartbeat", held | {"progress": 1})
        for _ in range(2):
            told = self.ask("POST", f"/jobs/{first['id']}/finish", held | {"result": {"n": 1}})
            assert told["state"] == "COMPLETED", told
        self.ask("POST", f"/jobs/{second['id']}/release", {"token": second["token"]})
        failed = {"token": third["token"], "error": "boom", "retry_in_seconds": 0}
        assert self.ask("POST", f"/jobs/{third['id']}/finish", failed)["state"] == "SCHEDULED"
        jobs = self.ask("POST", path, claim)["jobs"]
        pairs = [{"job_id": job["id"], "token": job["token"]} for job in jobs]
        told = self.ask("POST", "/jobs/finish", {"jobs": pairs})
        assert len(told["jobs"]) == len(pairs) == 2, told

    def steer(self) -> None:
        job = self.job(run_in_seconds=3600, task="never")
        assert self.ask("POST", f"{job}/cancel", {"reason": "enough"})["state"] == "CANCELLED"
        assert self.ask("POST", f"{job}/retry")["state"] == "SCHEDULED"
        bulk = {"filter": {"ids": [self.made[-1]]}, "dry_run": False}
        assert self.ask("POST", "/jobs/cancel", bulk)["changed"] == 1
        self.made.pop()
        queue = f"/queues/q{self.number}"
        self.ask("PATCH", queue, {"max_retries": 3, "backoff_base_seconds": 1})
        self.ask("POST", f"{queue}/pause")
        self.ask("POST", f"{queue}/resume")

    def schedule(self) -> None:
        name = f"s{self.number}"
        made = {"task": "work", "payload": {}, "interval_seconds": 3600, "queue": "schedules"}
        self.ask("PUT", f"/schedules/{name}", made)
        self.ask("POST", f"/schedules/{name}/pause")
        self.ask("POST", f"/schedules/{name}/resume")
        self.ask("POST", f"/schedules/{name}/trigger")
        self.ask("GET", f"/schedules/{name}")
        self.ask("DELETE", f"/schedules/{name}")

    def keys(self) -> None:
        if self.release.has("keys"):
            self.ask("PATCH", "/queues/keyed", {"key_max_running": 2})
            self.ask("PATCH", "/queues/keyed/keys/a", {"max_running": 1})
            for key in "aab":
                self.job(queue="keyed", key=key)
            self.job(unique_key=f"for {self.number}", unique_for_seconds=3600)
            self.ask("GET", "/queues/keyed/keys")

    def weave(self) -> None:
        if self.release.has("workflows"):
            event = f"{self.number}-{self.turns}"
            jobs = [
                {"task": "work", "node": "a", "payload": {}},
                {"task": "in_steps", "depends_on": ["a"], "payload": {"event": event}},
                {"task": "work", "depends_on": "all", "payload": {}},
            ]
            made = self.ask("POST", "/workflows", {"jobs": jobs})
            self.made += [job["job_id"] for job in made["jobs"]]
            self.ask("POST", f"/events/{event}", {"payload": self.turns})
            self.ask("GET", f"/workflows/{made['workflow_id']}")


def turn_on(clients: list[Client], turns: int = 2) -> None:
    """Wait until each client has asked for everything again."""
    reached = {client: client.turns for client in clients}
    wait_until(
        lambda: all(client.turns > reached[client] + turns for client in clients), timeout=120
    )


def test_old_workers_and_old_apis_go_on_beside_new_ones(
    release: Release,
    old: Connection,
    empty_db: str,
    start: Callable[..., Process],
    tmp_path: Path,
) -> None:
    queues = "default,keyed,schedules"
    options = ("--tasks", "tests.rolled", "--queues", queues, "--poll", "0.5", "--lease", "5")
    old.execute("select rota.configure_queue('default', backoff_base => '0.1 s')")
    worker = start("rota.worker", *options)
    port = str(free_port())
    api = start("rota.app", HOST="127.0.0.1", PORT=port)
    clients = [Client(release, f"http://127.0.0.1:{port}", number) for number in range(2)]
    wait_until(lambda: [line for line in worker.lines if line["message"] == "started"])
    wait_until(lambda: [line for line in api.lines if "serving" in line["message"]])
    long = call(old, "enqueue_job", task="work", payload=Jsonb({"seconds": 8}))
    for client in clients:
        client.start()
    turn_on(clients)

    deploy(empty_db, report=lambda line: None)

    turn_on(clients)
    new_worker = WorkerProcess(
        empty_db, tmp_path / "new.log", "--queues", queues, tasks=("--tasks", "tests.rolled")
    )
    new_api = Server(empty_db, tmp_path / "new-api.log", free_port())
    try:
        new_api.wait_until(new_api.is_live)
        newer = Client(release, new_api.url, 9)
        newer.start()
        turn_on([*clients, newer])
        for client in (*clients, newer):
            client.going = False
        for client in (*clients, newer):
            client.join()
        assert [api.process.poll(), worker.process.poll()] == [None, None]
        assert (worker.stop(), api.stop()) == (0, 0)
        made = [job_id for client in (*clients, newer) for job_id in client.made]
        live = "select count(*) from rota.live_jobs where id = any(%s) and task <> 'never'"
        wait_until(lambda: old.execute(live, [made]).fetchone() == (0,), timeout=60)
        assert (new_worker.stop(), new_api.stop()) == (0, 0)
    finally:
        new_worker.kill()
        new_api.close()

    print(release.name, [(client.turns, dict(client.statuses)) for client in clients])
    assert [failure for client in (*clients, newer) for failure in client.failures] == []
    assert worker.complaints == api.complaints == []
    ended = "select distinct state from rota.jobs where id = any(%s) and task <> 'never'"
    assert old.execute(ended, [made]).fetchall() == [("COMPLETED",)]
    lost = "select job_id, error from rota.executions where outcome in ('LOST', 'TIMED_OUT')"
    assert old.execute(lost).fetchall() == []
    (state,) = old.execute("select state from rota.jobs where id = %s", [long[0]["job_id"]])
    assert state == ("COMPLETED",)
    assert old.execute("select * from rota.check_invariants()").fetchall() == []


def test_new_workers_and_apis_refuse_an_old_database_and_say_what_to_run(
    old: Connection, empty_db: str, tmp_path: Path
) -> None:
    worker = WorkerProcess(empty_db, tmp_path / "worker.log")
    api = Server(empty_db, tmp_path / "api.log", free_port())
    try:
        assert worker.wait() == 2
        assert api.process.wait(30) == 1
    finally:
        worker.kill()
        api.close()

    assert "run rota deploy" in worker.lines[-1]["error"]
    assert "run: rota deploy" in api.log_lines()[-1]["message"]
    deploy(empty_db, report=lambda line: None)
    started = WorkerProcess(empty_db, tmp_path / "again.log")
    wait_until(lambda: started.logged("started") or started.ended)
    assert started.stop() == 0


NEW = "-- {} {}\ndrop function if exists rota.{};\n"


def test_no_claim_of_a_worker_fails_while_deploys_replace_its_functions(
    db: str, conn: Connection, tmp_path: Path
) -> None:
    """Each of these deploys drops what workers call, and makes it anew."""
    folder = tmp_path / "db"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    files = [
        folder / "functions" / place
        for place in (
            *("claim/claim_next_job.sql", "finish/finish_job.sql", "finish/finish_jobs.sql"),
            *("lease/heartbeat_jobs.sql", "upkeep/recover_jobs.sql", "steps/record_step.sql"),
        )
    ]
    texts = {path: path.read_text() for path in files}
    workers = [
        WorkerProcess(
            db, tmp_path / f"{number}.log", "--poll", "0.05", tasks=("--tasks", "tests.rolled")
        )
        for number in range(2)
    ]
    try:
        made, number = 0, 0
        for number in range(6):
            for path, text in texts.items():
                path.write_text(NEW.format(path.stem, number, path.stem) + text)
            deploys = threading.Thread(target=deploy, args=(db, folder, lambda line: None))
            deploys.start()
            while deploys.is_alive():
                made += 1
                call(conn, "enqueue_job", task="work", max_retries=0, payload=Jsonb({"n": made}))
                time.sleep(0.005)
            deploys.join()
        wait_until(lambda: conn.execute("select count(*) from rota.live_jobs").fetchone() == (0,))
        assert [worker.stop() for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()

    ended = conn.execute("select state, attempt, count(*)::int from rota.jobs group by 1, 2")
    assert ended.fetchall() == [("COMPLETED", 1, made)]
    lines = [line for worker in workers for line in worker.lines]
    assert [line for line in lines if line["level"] in ("ERROR", "CRITICAL")] == []
    print([line["sqlstate"] for line in lines if line.get("sqlstate")], made)


@pytest.mark.parametrize("function", ["claim_next_job", "finish_jobs", "heartbeat_jobs"])
def test_a_worker_asks_again_for_a_function_that_is_away_for_a_moment(
    db: str, conn: Connection, tmp_path: Path, function: str
) -> None:
    worker = WorkerProcess(
        db, tmp_path / "log", "--poll", "0.05", "--lease", "2", tasks=("--tasks", "tests.rolled")
    )
    try:
        wait_until(lambda: worker.logged("started"))
        conn.execute(f"alter function rota.{function} rename to away")
        for number in range(3):
            payload = Jsonb({"n": number, "seconds": 1.5})
            call(conn, "enqueue_job", task="work", max_retries=0, payload=payload)
        wait_until(lambda: [line for line in worker.lines if line.get("sqlstate") == "42883"])
        conn.execute(f"alter function rota.away rename to {function}")
        wait_until(lambda: conn.execute("select count(*) from rota.live_jobs").fetchone() == (0,))
        assert worker.stop() == 0
    finally:
        worker.kill()

    ended = conn.execute("select state, attempt, count(*)::int from rota.jobs group by 1, 2")
    assert ended.fetchall() == [("COMPLETED", 1, 3)]


def test_nobody_fails_while_all_migrations_are_applied_to_tables_with_rows(
    tmp_path: Path, empty_db: str
) -> None:
    """From the oldest release; for how long its locks are held is measured by ``make locks``."""
    try:
        release = check_out(NAMES[0], tmp_path)
    except MissingReleaseError as error:
        pytest.skip(str(error))
    release.deploy(empty_db)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        locks.fill(conn, 20_000)

    found = locks.upgrade(empty_db)

    print("\n".join(found.lines()))
    assert found.failures == []
    assert found.held.keys() and found.usual.keys() == found.slowest.keys()
