"""What may happen on the way between the server and those who talk to it."""

import json
import os
import socket
import time
import urllib.error
import urllib.request
from typing import Any

import psycopg
import pytest

from tests.faults.harness import DROP_SESSIONS, House, only_long
from tests.faults.proxy import Proxy
from tests.waiting import wait_until


@pytest.mark.parametrize("then", ["cut", "killed"])
@pytest.mark.parametrize(
    ("function", "attempts"),
    [("claim_next_job", ["LOST", "SUCCEEDED"]), ("finish_jobs", ["SUCCEEDED"])],
)
def test_f1_the_reply_to_a_commit_never_arrives(
    house: House, proxy: Proxy, function: str, attempts: list[str], then: str
):
    house.produce(1)
    proxy.swallow_reply(function, keep_open=then == "killed")
    worker = house.worker(proxy.url(house.dbname), lease=1)
    with house.fault(f"reply to {function} lost", "network"):
        assert proxy.swallowed.wait(30)
    if then == "killed":
        house.kill(worker)
        house.worker()

    house.decide(jobs=1)

    assert house.outcomes() == [attempts]


@pytest.mark.parametrize(
    "directions", [("up", "down"), pytest.param(("up",), marks=only_long), ("down",)]
)
def test_f7_a_partition_longer_than_the_lease_costs_a_run_and_nothing_else(
    house: House, proxy: Proxy, directions: tuple[str, ...]
):
    house.produce(2, payload={"seconds": 1})
    far = house.worker(proxy.url(house.dbname), lease=1.5)
    wait_until(lambda: house.effects("start") == 2)
    with house.fault(f"partition {directions}", "network"):
        proxy.silence(*directions)
        house.worker()
        house.drain()
        proxy.heal()
    wait_until(lambda: "LEASE_LOST" in far.log.read_text())

    report = house.decide(jobs=2, late=1)

    assert house.outcomes() == [["LOST", "SUCCEEDED"]] * 2
    assert report.figures.duplicates_explained == 2


def test_f7_a_partition_shorter_than_the_lease_costs_nothing(house: House, proxy: Proxy):
    house.produce(4, payload={"seconds": 1.5})
    house.worker(proxy.url(house.dbname), lease=6)
    house.worker(lease=6)
    wait_until(lambda: house.effects("start") == 4)
    with house.fault("short partition", "network"):
        proxy.silence("up", "down")
        wait_until(lambda: house.effects("done") == 4)
        proxy.heal()

    house.decide(jobs=4)

    assert house.outcomes() == [["SUCCEEDED"]] * 4


@only_long
def test_f8_a_connection_that_looks_alive_and_is_not_costs_a_run_and_nothing_else(
    house: House, proxy: Proxy
):
    house.produce(1, payload={"seconds": 3})
    deaf = house.worker(proxy.url(house.dbname), lease=1.5)
    wait_until(lambda: house.effects("start"))
    proxy.swallow_reply("heartbeat_jobs", keep_open=True)
    with house.fault("half-open", "network"):
        assert proxy.swallowed.wait(30)
        house.worker()
        house.drain()
        proxy.cut()
    wait_until(lambda: "LEASE_LOST" in deaf.log.read_text())

    house.decide(jobs=1, late=1)

    [attempts] = house.outcomes()
    assert set(attempts[:-1]) == {"LOST"}
    assert attempts[-1] == "SUCCEEDED"


@pytest.mark.parametrize(
    "function", ["heartbeat_jobs", "begin_sleep", pytest.param("claim_next_job", marks=only_long)]
)
def test_f8_a_worker_leaves_a_connection_that_has_gone_silent(
    house: House, proxy: Proxy, function: str
):
    proxy.swallow_reply(function, keep_open=True)
    worker = house.worker(proxy.url(house.dbname), lease=3)
    house.produce(3, payload={"seconds": 2})
    with house.fault("half-open", "network"):
        assert proxy.swallowed.wait(30)
        wait_until(lambda: "no answer for too long" in worker.log.read_text())

    house.decide(jobs=3)

    assert all(attempts[-1] == "SUCCEEDED" for attempts in house.outcomes())


def test_a_slow_network_costs_time_and_nothing_else(house: House, proxy: Proxy):
    house.produce(20)
    proxy.delay(0.1)
    for _ in range(2):
        house.worker(proxy.url(house.dbname), lease=6)
    with house.fault("delay", "network"):
        house.drain()
    proxy.heal()

    house.decide(jobs=20)

    assert house.outcomes() == [["SUCCEEDED"]] * 20


@pytest.mark.parametrize(
    "function", ["pg_terminate_backend", pytest.param("pg_cancel_backend", marks=only_long)]
)
def test_f2_sessions_ended_by_an_administrator_come_back(house: House, function: str):
    for _ in range(2):
        house.worker()
    with house.producing(150, pause=0.02, payload={"seconds": 0.1}):
        for _ in range(8):
            with house.fault(function, "server"):
                house.execute(DROP_SESSIONS.format(function=function))
            time.sleep(house.random.uniform(0.1, 0.5))

    report = house.decide(jobs=100, faults=8)

    assert report.figures.jobs + report.figures.unknown_enqueues <= 150


def test_connections_cut_at_any_moment_lose_nothing(house: House, proxy: Proxy):
    for _ in range(3):
        house.worker(proxy.url(house.dbname))
    with house.producing(
        200, url=proxy.url(house.dbname), pause=0.02, payload={"seconds": 0.05, "fail": 0.2}
    ):
        for number in range(12):
            with house.fault("cut", "network"):
                if number % 3 == 0:
                    proxy.swallow_reply("enqueue_job")
                    assert proxy.swallowed.wait(30)
                else:
                    proxy.cut()
            time.sleep(house.random.uniform(0.1, 0.4))

    report = house.decide(jobs=150, faults=12)

    assert report.figures.unknown_enqueues >= 1


def test_f35_a_post_that_is_repeated_after_the_api_was_killed_makes_one_job(
    house: House, proxy: Proxy
):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "DATABASE_URL": proxy.url(house.dbname),
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }
    log = house.folder / "api.log"
    first = house.run(["-m", "rota.app"], environment, log)
    wait_until(lambda: "serving" in log.read_text())
    # Whether a token is needed is known now, so that the next commit is that of the job.
    urllib.request.urlopen(f"http://127.0.0.1:{port}/jobs", timeout=5).close()
    # the whole statement: BEGIN says READ COMMITTED
    proxy.swallow_reply("commit\0", keep_open=True)

    def post() -> dict[str, Any]:
        body = {"task": "work", "unique_key": "once", "payload": {"key": "once"}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/jobs",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.load(response)

    call = house.history.invoke("enqueue", key="once")
    with house.fault("API SIGKILL", "network"), pytest.raises((OSError, urllib.error.URLError)):
        try:
            post()
        finally:
            assert proxy.swallowed.wait(30)
            first.kill()
            first.wait()
    house.history.answer(call, "enqueue", "unknown")

    log.write_text("")
    second = house.run(["-m", "rota.app"], environment, log)
    wait_until(lambda: "serving" in log.read_text())
    call = house.history.invoke("enqueue", key="once")
    answer = post()
    house.history.answer(call, "enqueue", "ok", value=answer["job_id"])
    second.terminate()
    assert second.wait(30) == 0

    with psycopg.connect(house.url) as conn:
        assert conn.execute("select count(*) from rota.jobs").fetchone() == (1,)
    house.worker()
    house.decide(jobs=1)
