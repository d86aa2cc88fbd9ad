"""The workers of examples/ that need neither Python nor a database, as a cluster would treat them.

Each is killed while it works. That nothing is lost, and nothing finished twice, is seen in the
history of attempts and in what the handlers leave behind: each attempt writes down a mark of its
own, and the result that counts must be that of the one attempt which was finished.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.api.conftest import PROJECT, Server, free_port
from tests.waiting import wait_until

EXAMPLES = PROJECT / "examples"
LONG = os.environ.get("ROTA_FAULTS") == "all"  # make faults, make soak
JOBS, KILLS = (1000, 10) if LONG else (200, 4)
TOGETHER = 2  # workers at a time
LEASE = 5  # seconds
PATIENCE = 240.0 if LONG else 60.0  # seconds, on a busy machine

COMMAND = """\
#!/usr/bin/env bash
read -r payload
mark="$ROTA_JOB_ID $$ $EPOCHREALTIME"
echo "$mark" >>"$EFFECTS"
case $payload in
    *seconds*) sleep "$(grep -oE '[0-9.]+' <<<"$payload")" ;;
    *fail*) exit 3 ;;
    *garbage*) echo 'this is "no JSON' && exit ;;
esac
echo "{\\"payload\\": $payload, \\"mark\\": \\"$mark\\"}"
"""
HANDLERS = """\
import { appendFileSync } from "node:fs"
import { setTimeout as sleep } from "node:timers/promises"

export async function work(payload, job) {
  const mark = `${job.id} ${process.pid} ${process.hrtime.bigint()}`
  appendFileSync(process.env.EFFECTS, `${mark}\\n`)
  if (payload.seconds) await sleep(payload.seconds * 1000)
  if (payload.fail) throw new Error("exit code 3")
  if (payload.garbage) return "\\0"
  return { payload, mark }
}
"""


class Workers:
    """Starts workers of a kind, each in a session of its own."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.started: list[subprocess.Popen] = []
        self.effects = folder / "effects"
        self.effects.touch()
        self.log = folder / "worker.log"
        (folder / "command").write_text(COMMAND)
        (folder / "command").chmod(0o755)
        (folder / "handlers.mjs").write_text(HANDLERS)
        self._command = {
            "bash": ["bash", EXAMPLES / "worker.sh", "q", folder / "command"],
            "node": ["node", EXAMPLES / "worker.mjs", folder / "handlers.mjs", "q"],
        }[kind]

    def start(self, url: str, **environment: str) -> subprocess.Popen:
        """Start one."""
        settings = {"ROTA_URL": url, "ROTA_LEASE": str(LEASE), "EFFECTS": str(self.effects)}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._command,
                env=os.environ | settings | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def marks(self) -> list[str]:
        """Return the marks of all attempts that began, in order."""
        return self.effects.read_text().splitlines()

    def has_said(self, words: str) -> bool:
        """Tell whether one of them has logged this."""
        return words in self.log.read_text()

    def close(self) -> None:
        """End what is left of all of them."""
        for process in self.started:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            process.wait()


@pytest.fixture(params=["bash", "node"])
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workers]:
    """The workers of each kind, if what runs them is installed."""
    missing = [
        name
        for name in {"bash": ["bash", "curl"], "node": ["node"]}[request.param]
        if shutil.which(name) is None
    ]
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"not installed: {missing}")
    workers = Workers(request.param, tmp_path)
    yield workers
    workers.close()


def enqueue(conn: Connection, **payload: Any) -> int:
    return call(conn, "enqueue_job", task="work", queue="q", payload=Jsonb(payload))[0]["job_id"]


def job(conn: Connection) -> Any:
    """Return state, result and error of the newest job."""
    row = conn.execute("select state, result, last_error from rota.jobs order by id desc limit 1")
    return row.fetchone()


def test_the_one_in_bash_fits_on_a_page() -> None:
    lines = (EXAMPLES / "worker.sh").read_text().splitlines()

    assert len(lines) <= 40 and max(map(len, lines)) <= 100


def test_http_workers_that_are_killed_lose_nothing_and_finish_nothing_twice(
    server: Server, conn: Connection, workers: Workers
) -> None:
    chance = random.Random()
    jobs = [
        {"task": "work", "queue": "q", "payload": {"seconds": 0.2} if n % 25 == 0 else {"n": n}}
        for n in range(JOBS)
    ]
    conn.execute("select configure_queue('q', backoff_base => '1 millisecond')")
    call(conn, "enqueue_jobs", jobs=Jsonb(jobs))
    began = time.monotonic()

    def completed() -> int:
        row = conn.execute("select count(*) from rota.jobs where state = 'COMPLETED'").fetchone()
        return row[0]

    crew = [workers.start(server.url) for _ in range(TOGETHER)]
    for kill in range(KILLS):
        least = JOBS * (kill + chance.random()) // (KILLS + 1)
        wait_until(lambda least=least: completed() >= least, PATIENCE)
        time.sleep(chance.uniform(0, 0.05))  # any moment
        victim = crew.pop(0)
        # Now the process alone, what it had started goes on; now the whole group.
        (os.kill if kill % 2 else os.killpg)(victim.pid, signal.SIGKILL)
        victim.wait()
        assert completed() < JOBS
        crew.append(workers.start(server.url))
    wait_until(lambda: completed() == JOBS, PATIENCE)
    seconds = time.monotonic() - began

    rows = conn.execute("select id, payload, result, attempt from rota.jobs order by id").fetchall()
    attempts = conn.execute(
        "select job_id, outcome, result from rota.executions order by job_id, attempt"
    ).fetchall()
    outcomes = Counter(outcome for _, outcome, _ in attempts)
    effects = Counter(int(mark.split()[0]) for mark in workers.marks())
    print(f"{workers.kind}: {JOBS} jobs, {KILLS} kills, {seconds:.0f} s, {dict(outcomes)}, "
          f"{effects.total()} handlers begun")  # fmt: skip
    assert [payload for _, payload, _, _ in rows] == [job["payload"] for job in jobs]
    finished = [(job_id, result) for job_id, outcome, result in attempts if outcome == "SUCCEEDED"]
    assert finished == [(job_id, result) for job_id, _, result, _ in rows]  # once each
    assert set(outcomes) <= {"SUCCEEDED", "LOST", "RELEASED"} and outcomes["LOST"] > 0
    marks = set(workers.marks())
    for job_id, payload, result, _ in rows:
        assert result["payload"] == payload
        assert result["mark"] in marks and result["mark"].startswith(f"{job_id} ")
    begun = Counter(job_id for job_id, _, _ in attempts)
    assert not [job_id for job_id, times in effects.items() if times > begun[job_id]]


def test_one_that_was_frozen_past_its_lease_changes_nothing_and_goes_on(
    server: Server, conn: Connection, workers: Workers
) -> None:
    conn.execute("select configure_queue('q', backoff_base => '1 millisecond')")
    enqueue(conn, seconds=0.5)
    frozen = workers.start(server.url, ROTA_LEASE="1", ROTA_CONCURRENCY="1")
    wait_until(workers.marks)
    frozen.send_signal(signal.SIGSTOP)

    wait_until(lambda: conn.execute("select recover_jobs()").fetchone() == (1,))
    (taken,) = wait_until(lambda: call(conn, "claim_next_job", queues=["q"], worker="other"))
    call(conn, "finish_job", job_id=taken["id"], token=taken["token"], result=Jsonb("other's"))
    frozen.send_signal(signal.SIGCONT)

    wait_until(lambda: workers.has_said("is not held under this token"))
    assert job(conn)[:2] == ("COMPLETED", "other's")
    enqueue(conn, n=2)
    wait_until(lambda: job(conn)[0] == "COMPLETED" and job(conn)[1]["payload"] == {"n": 2})


def test_a_lease_is_extended_while_the_work_goes_on(
    server: Server, conn: Connection, workers: Workers
) -> None:
    enqueue(conn, seconds=5)
    workers.start(server.url, ROTA_LEASE="2")

    def recovered() -> int:
        return conn.execute("select recover_jobs()").fetchone()[0]

    wait_until(lambda: recovered() or job(conn)[0] == "COMPLETED")

    assert conn.execute("select outcome from rota.executions").fetchall() == [("SUCCEEDED",)]


def test_a_failure_is_an_error_and_so_is_a_result_that_cannot_be_stored(
    server: Server, conn: Connection, workers: Workers
) -> None:
    conn.execute("select configure_queue('q', max_retries => 0)")
    workers.start(server.url)

    enqueue(conn, fail=True)
    wait_until(lambda: job(conn)[0] == "FAILED")
    assert "exit code 3" in job(conn)[2]
    enqueue(conn, garbage=True)
    wait_until(lambda: job(conn)[0] == "FAILED")
    assert "refused" in job(conn)[2]


def test_a_job_that_is_cancelled_or_takes_too_long_is_stopped(
    server: Server, conn: Connection, workers: Workers
) -> None:
    conn.execute("select configure_queue('q', max_retries => 0)")
    workers.start(server.url, ROTA_LEASE="1")

    cancelled = enqueue(conn, seconds=60)
    wait_until(workers.marks)
    call(conn, "cancel_job", job_id=cancelled)
    wait_until(lambda: job(conn)[0] == "CANCELLED")
    conn.execute("select configure_queue('q', timeout => '0.5 seconds')")
    enqueue(conn, seconds=60)
    wait_until(lambda: job(conn)[0] == "FAILED")


def test_told_to_stop_it_leaves_a_wait_at_once_and_finishes_what_it_has(
    server: Server, conn: Connection, workers: Workers
) -> None:
    idle, busy = (workers.start(server.url, ROTA_GRACE="60") for _ in range(2))
    wait_until(lambda: conn.execute("select from rota.workers").rowcount == 2)
    idle.terminate()
    assert idle.wait(15) == 0

    enqueue(conn, seconds=1)
    wait_until(workers.marks)
    busy.terminate()

    assert busy.wait(15) == 0
    assert job(conn)[0] == "COMPLETED"
    # What was claimed for the one that is gone, before that was seen, is handed back.
    outcomes = "select outcome from rota.executions where outcome <> 'RELEASED'"
    assert conn.execute(outcomes).fetchall() == [("SUCCEEDED",)]


def test_the_one_in_node_hands_back_what_it_cannot_finish_in_time(
    server: Server, conn: Connection, workers: Workers
) -> None:
    if workers.kind == "bash":
        pytest.skip("it finishes, however long that takes")
    enqueue(conn, seconds=60)
    worker = workers.start(server.url, ROTA_GRACE="0.1")
    wait_until(workers.marks)

    worker.terminate()

    assert worker.wait(15) == 0
    # So is what was claimed for one of its waits, before it was seen that nobody waits any more.
    wait_until(lambda: job(conn)[0] == "SCHEDULED")
    outcomes = conn.execute("select outcome from rota.executions").fetchall()
    assert set(outcomes) == {("RELEASED",)}


def test_it_says_that_the_api_is_away_or_takes_no_such_token_and_goes_on_trying(
    db: str, conn: Connection, start_server: Callable[..., Server], workers: Workers
) -> None:
    made = call(conn, "create_token", principal="rota_worker")[0]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    workers.start(url, ROTA_TOKEN=made["token"])
    workers.start(url, ROTA_TOKEN="wrong")
    wait_until(lambda: workers.has_said("no answer"))

    enqueue(conn, n=1)
    start_server(db, port=port)

    wait_until(lambda: job(conn)[0] == "COMPLETED")
    wait_until(lambda: workers.has_said("this needs a valid token"))
    assert [worker.poll() for worker in workers.started] == [None, None]
    assert not workers.has_said(made["token"])
