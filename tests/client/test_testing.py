"""``rota.testing`` and its fixtures: retries and schedules in a user's tests, without waiting."""

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

import rota
from rota import Fail, Job, Retry, task
from rota.db.deploy import deploy
from rota.testing import Clock, run_due_jobs
from tests.client.test_enqueue import SYNCHRONOUS

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def handlers(no_handlers):
    """Handlers of this module's tests only."""

    @task("fails")
    def fails(job: Job) -> None:
        if job.attempt <= job.payload["times"]:
            raise ConnectionError(f"attempt {job.attempt}")

    @task("echo")
    def echo(job: Job) -> object:
        return job.payload

    @task("retry")
    def retry(job: Job) -> None:
        if job.attempt == 1:
            raise Retry("not yet", in_=2 * HOUR)

    @task("fail")
    def fail(job: Job) -> None:
        raise Fail("never")

    @task("unstorable")
    def unstorable(job: Job) -> object:
        return {1, 2}

    @task("progress")
    def progress(job: Job) -> None:
        job.progress({"half": True})
        job.log.info("logged")
        assert not job.cancelled

    @task("spawn")
    def spawn(job: Job) -> None:
        with psycopg.connect(job.payload) as conn:
            rota.enqueue(conn, "spawn", job.payload)


@pytest.fixture
def conn(db):
    with psycopg.connect(db, autocommit=True) as conn:
        yield conn


@pytest.fixture
def clock(conn):
    return Clock(conn)


def test_retries_are_tested_in_no_time(conn, clock):
    began = time.monotonic()
    rota.enqueue(conn, "fails", {"times": 3}, max_retries=3)

    states = []
    for _ in range(4):
        [ran] = run_due_jobs(conn)
        states.append((ran.attempt, ran.state))
        assert run_due_jobs(conn) == []
        clock.advance(timedelta(days=1))

    assert states == [(1, "SCHEDULED"), (2, "SCHEDULED"), (3, "SCHEDULED"), (4, "COMPLETED")]
    assert time.monotonic() - began < 5


def test_a_failure_tells_why(conn):
    rota.enqueue(conn, "fails", {"times": 9}, max_retries=0)
    rota.enqueue(conn, "fail", max_retries=9)
    rota.enqueue(conn, "unstorable", max_retries=0)

    one, two, three = run_due_jobs(conn)

    assert one.error.endswith("ConnectionError: attempt 1")
    assert (two.state, two.error) == ("FAILED", "never")
    assert three.error.startswith("the result cannot be stored")
    assert [ran.state for ran in (one, two, three)] == ["FAILED"] * 3


def test_a_retry_waits_for_its_time(conn, clock):
    rota.enqueue(conn, "retry")
    assert run_due_jobs(conn)[0].state == "SCHEDULED"
    clock.advance(2 * HOUR - timedelta(minutes=1))
    assert run_due_jobs(conn) == []
    clock.advance(timedelta(minutes=1))
    assert run_due_jobs(conn)[0].state == "COMPLETED"


def test_a_schedule_runs_day_by_day(conn, clock):
    clock.set(datetime(2030, 1, 7, 5, tzinfo=UTC))
    rota.schedule(conn, "echo", {"n": 1}, name="daily", cron="0 6 * * *", time_zone="UTC")
    assert run_due_jobs(conn) == []

    runs = []
    for _ in range(3):
        clock.advance(timedelta(days=1))
        runs += run_due_jobs(conn)

    assert [(ran.run, ran.state, ran.result) for ran in runs] == [
        (1, "SCHEDULED", {"n": 1}),
        (2, "SCHEDULED", {"n": 1}),
        (3, "SCHEDULED", {"n": 1}),
    ]


def test_all_due_jobs_of_all_queues_run_in_their_order(conn):
    rota.enqueue(conn, "echo", 1, queue='od"d\\')
    rota.enqueue(conn, "echo", 2)
    rota.enqueue(conn, "echo", 3, priority=5)
    rota.enqueue(conn, "echo", 4, run_at=datetime.now(UTC) + HOUR)

    assert [ran.result for ran in run_due_jobs(conn, queues=["default"])] == [3, 2]
    assert [ran.result for ran in run_due_jobs(conn)] == [1]
    assert run_due_jobs(conn, queues=[]) == []


def test_progress_is_stored(conn):
    job = rota.enqueue(conn, "progress")

    assert run_due_jobs(conn)[0].state == "COMPLETED"

    query = "select progress from rota.jobs where id = %s"
    assert conn.execute(query, [job.id]).fetchone() == ({"half": True},)


def test_jobs_that_never_end_are_noticed(conn, db):
    rota.enqueue(conn, "spawn", db)

    with pytest.raises(RuntimeError, match="still due jobs after 20 attempts"):
        run_due_jobs(conn, max_attempts=20)


def test_as_many_attempts_as_are_allowed_are_no_loop(conn):
    rota.enqueue_many(conn, "echo", range(3))
    assert len(run_due_jobs(conn, max_attempts=3)) == 3

    rota.enqueue_many(conn, "echo", range(4))
    with pytest.raises(RuntimeError, match="still due jobs after 3 attempts"):
        run_due_jobs(conn, max_attempts=3)
    [last] = run_due_jobs(conn)
    assert (last.result, last.attempt) == (3, 1)


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()])
def test_a_handler_that_would_end_the_process_fails_its_attempt(conn, error):
    @task("ends")
    async def ends(job: Job) -> None:
        raise error

    rota.enqueue(conn, "ends", max_retries=0)

    assert run_due_jobs(conn)[0].state == "FAILED"


def test_what_ends_the_test_gives_the_job_back(conn):
    @task("fails the test")
    def fails_the_test(job: Job) -> None:
        pytest.fail("on purpose")

    rota.enqueue(conn, "fails the test")
    with pytest.raises(pytest.fail.Exception):
        run_due_jobs(conn)

    assert conn.execute("select state, attempt from rota.jobs").fetchall() == [("SCHEDULED", 0)]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_coroutine_that_a_plain_handler_returns_is_no_result(conn):
    async def forgotten() -> int:
        return 1

    @task("forgets to await")
    def forgets_to_await(job: Job) -> object:
        return forgotten()

    rota.enqueue(conn, "forgets to await", max_retries=0)

    [ran] = run_due_jobs(conn)
    assert ran.error.startswith("the result cannot be stored")


def test_queues_are_a_list(conn):
    with pytest.raises(TypeError, match="queues must be a list"):
        run_due_jobs(conn, queues="default")


def test_a_task_without_handler_is_an_error_and_stays_due(conn):
    rota.enqueue(conn, "unknown")

    for _ in range(2):
        with pytest.raises(LookupError, match="no handler for task 'unknown': import its module"):
            run_due_jobs(conn)


def test_it_works_where_an_event_loop_runs_already(conn):
    @task("coroutine")
    async def coroutine(job: Job) -> str:
        await asyncio.sleep(0)
        return "done"

    rota.enqueue(conn, "coroutine")

    async def in_a_loop() -> list:
        return run_due_jobs(conn)

    assert asyncio.run(in_a_loop())[0].result == "done"


@pytest.mark.parametrize("connection", SYNCHRONOUS.values(), ids=SYNCHRONOUS)
def test_in_a_transaction_that_is_rolled_back_it_has_never_been(db, connection):
    with connection(db) as (conn, _, rollback):
        clock = Clock(conn)
        rota.enqueue(conn, "retry")
        assert [ran.state for ran in run_due_jobs(conn)] == ["SCHEDULED"]
        clock.advance(2 * HOUR)
        assert [ran.state for ran in run_due_jobs(conn)] == ["COMPLETED"]
        rollback()

    with psycopg.connect(db) as other:
        assert other.execute("select count(*) from rota.jobs").fetchone() == (0,)


def test_the_clock_runs_on_can_be_put_back_and_needs_a_zone(conn, clock):
    instant = datetime(2040, 5, 6, 7, tzinfo=UTC)
    clock.set(instant)
    [(now,)] = conn.execute("select rota._now()").fetchall()
    assert timedelta() <= now - instant < timedelta(minutes=1)
    clock.advance(-HOUR)
    [(now,)] = conn.execute("select rota._now()").fetchall()
    assert now < instant
    clock.reset()
    [(ahead,)] = conn.execute("select rota._now() - clock_timestamp()").fetchall()
    assert abs(ahead) < timedelta(seconds=1)
    with pytest.raises(ValueError, match="needs a time zone"):
        clock.set(datetime(2040, 1, 1))


def test_a_clock_is_not_moved_under_a_worker(empty_db):
    deploy(empty_db)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        conn.execute(
            "select rota.announce_worker(worker => 'w1', host => 'h', pid => 1,"
            " queues => '{default}', concurrency => 1, version => 'x')"
        )

        with pytest.raises(RuntimeError, match="worker w1 is alive here"):
            Clock(conn)


USERS = """
import psycopg
from datetime import timedelta

import pytest

import rota
from rota import task

pytest_plugins = ["rota.pytest_plugin"]


@task("welcome")
def welcome(job, to):
    if job.attempt == 1:
        raise ConnectionError("the server is down")
    return f"hello {to}"


@pytest.mark.parametrize("again", [1, 2])
def test_a_welcome_is_tried_again(rota_db, again):
    with psycopg.connect(rota_db.url) as conn:
        assert conn.execute("select count(*) from rota.jobs").fetchone() == (0,)
        assert welcome.enqueue(conn, to="ann").created
    [first] = rota_db.run_due_jobs()
    assert first.state == "SCHEDULED"
    rota_db.clock.advance(timedelta(hours=1))
    [second] = rota_db.run_due_jobs()
    assert (second.state, second.result) == ("COMPLETED", "hello ann")
    rota.schedule(rota_db.conn, "welcome", {"to": "bob"}, name="s", every="1 hour")
    rota_db.conn.execute("select rota.configure_retention('8 days')")


def test_that_fails_and_leaves_a_transaction_open(rota_db):
    conn = psycopg.connect(rota_db.url)
    rota.enqueue(conn, "welcome")
    assert rota_db.conn.execute("select retention from rota.settings").fetchone()[0].days == 90
    assert False, "on purpose"
"""


def users_tests(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    (folder / "test_users.py").write_text(USERS)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:schemathesis",
            "--rootdir",
            folder,
            folder,
        ],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(rota.__file__).parents[1])}
        | environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def empty_test_db(cluster, administrate):
    administrate("create database {}", "users_test")
    yield cluster.url("users_test")
    administrate("drop database {} with (force)", "users_test")


def test_the_fixture_brings_a_clean_database_for_each_test(tmp_path, empty_test_db):
    done = users_tests(tmp_path, ROTA_TEST_URL=empty_test_db)

    assert "1 failed, 2 passed" in done.stdout, done.stdout


def test_the_fixture_starts_a_server_of_its_own(tmp_path):
    done = users_tests(tmp_path)

    assert "1 failed, 2 passed" in done.stdout, done.stdout


def test_the_fixture_empties_no_database_that_is_not_one_for_tests(tmp_path, cluster):
    done = users_tests(tmp_path, ROTA_TEST_URL=cluster.url("production"))

    assert "database 'production' is not named as one for tests" in done.stdout
