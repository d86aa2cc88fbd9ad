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


# -- steps, sleeps, events, and jobs that follow ---------------------------------------------------


@pytest.fixture
def order(handlers):
    """A handler in three steps, once as a function and once as a coroutine; and what they did."""
    did = []

    def charge(order_id):
        did.append(order_id)
        return {"charge": order_id}

    @task("order")
    def order(job: Job) -> object:
        charged = job.step("charge", charge, job.payload["order"])
        job.sleep("a day later", timedelta(days=1))
        paid = job.wait_for(f"paid:{job.payload['order']}", timeout=timedelta(days=2))
        return [charged, job.step("tell", lambda: ("told", paid))]

    @task("order_async")
    async def order_async(job: Job) -> object:
        async def charge_async(order_id):
            await asyncio.sleep(0)
            return charge(order_id)

        charged = await job.step_async("charge", charge_async, job.payload["order"])
        await job.sleep_async("a day later", timedelta(days=1))
        paid = await job.wait_for_async(f"paid:{job.payload['order']}", timeout=2 * 86_400)
        return [charged, await job.step_async("tell", lambda: ("told", paid))]

    return did


@pytest.mark.parametrize("name", ["order", "order_async"])
def test_a_handler_goes_on_after_its_sleep_and_with_its_event(conn, clock, order, name):
    job = rota.enqueue(conn, name, {"order": 7})

    [first] = run_due_jobs(conn)
    assert (first.state, first.error, first.result) == ("SCHEDULED", None, None)
    assert run_due_jobs(conn) == []
    clock.advance(timedelta(hours=23))
    assert run_due_jobs(conn) == []
    clock.advance(HOUR)
    [second] = run_due_jobs(conn)
    assert (second.state, second.attempt) == ("SCHEDULED", 1)
    assert run_due_jobs(conn) == []
    assert rota.emit_event(conn, "paid:7", {"sum": 5}) == 1
    [third] = run_due_jobs(conn)

    assert (third.state, third.result) == (
        "COMPLETED", [{"charge": 7}, ["told", {"sum": 5}]],
    )  # fmt: skip
    assert order == [7]
    steps = conn.execute("select step from rota.recorded_steps(%s)", [job.id]).fetchall()
    assert steps == [("charge",), ("a day later",), ("paid:7",), ("tell",)]


def test_an_event_that_was_emitted_before_is_not_waited_for(conn, clock, order):
    rota.emit_event(conn, "paid:7", None)
    rota.enqueue(conn, "order", {"order": 7})
    run_due_jobs(conn)
    clock.advance(timedelta(days=1))

    [ran] = run_due_jobs(conn)

    assert (ran.state, ran.result[1]) == ("COMPLETED", ["told", None])


@pytest.mark.parametrize("name", ["order", "order_async"])
def test_an_event_that_does_not_come_in_time_is_an_error_that_stays(conn, clock, order, name):
    rota.enqueue(conn, name, {"order": 7}, max_retries=1)
    run_due_jobs(conn)
    clock.advance(timedelta(days=1))
    run_due_jobs(conn)
    clock.advance(timedelta(days=2))

    [ran] = run_due_jobs(conn)
    rota.emit_event(conn, "paid:7")
    clock.advance(timedelta(days=1))
    [again] = run_due_jobs(conn)

    assert "EventTimeout: event paid:7 did not come in time" in ran.error
    assert (again.state, "EventTimeout" in again.error) == ("FAILED", True)
    assert order == [7]


def test_who_catches_the_end_of_a_wait_goes_on(conn, clock):
    @task("patient")
    def patient(job: Job) -> object:
        try:
            return job.wait_for("never", timeout=60)
        except TimeoutError:
            return "without"

    rota.enqueue(conn, "patient")
    run_due_jobs(conn)
    clock.advance(HOUR)

    assert [ran.result for ran in run_due_jobs(conn)] == ["without"]


def test_a_failed_attempt_does_not_repeat_its_steps(conn, clock):
    did = []

    @task("stumbles")
    def stumbles(job: Job) -> object:
        job.step("first", did.append, "first")
        value = job.step("second", lambda: did.append("second") or {"nested": (1, 2)})
        if job.attempt == 1:
            raise ConnectionError
        return value

    rota.enqueue(conn, "stumbles")
    run_due_jobs(conn)
    clock.advance(HOUR)

    assert [ran.result for ran in run_due_jobs(conn)] == [{"nested": [1, 2]}]
    assert did == ["first", "second"]


def test_steps_side_by_side_are_done_once_each(conn, clock):
    did = []

    @task("side_by_side")
    async def side_by_side(job: Job) -> object:
        async def work(name):
            await asyncio.sleep(0)
            did.append(name)
            return name

        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(job.step_async(name, work, name)) for name in "abc"]
        async with asyncio.TaskGroup() as group:  # which has what ends it in a group of its own
            group.create_task(job.sleep_async("nap", HOUR))
        return [part.result() for part in parts] + [await job.step_async("a", work, "again")]

    rota.enqueue(conn, "side_by_side")
    [asleep] = run_due_jobs(conn)
    clock.advance(HOUR)
    [ran] = run_due_jobs(conn)

    assert (asleep.state, asleep.error) == ("SCHEDULED", None)
    assert ran.result == ["a", "b", "c", "a"]
    assert sorted(did) == ["a", "b", "c"]


def test_what_a_step_cannot_record_fails_its_attempt_alone(conn):
    @task("sets")
    def sets(job: Job) -> None:
        with pytest.raises(ValueError, match="not JSON serializable"):
            job.step("set", lambda: {1, 2})
        with pytest.raises(TypeError, match="name must be a text"):
            job.step(7, lambda: None)
        job.step("set", lambda: [1, 2])

    rota.enqueue(conn, "sets")

    assert [ran.error for ran in run_due_jobs(conn)] == [None]


def test_a_handler_that_goes_on_after_it_was_handed_back_does_so_in_vain(conn, clock):
    raised = []

    @task("stubborn")
    def stubborn(job: Job) -> str:
        try:
            job.sleep("long", HOUR)
        except BaseException as error:
            raised.append(type(error).__name__)
            try:
                job.step("more", lambda: 1)
            except BaseException as again:
                raised.append(type(again).__name__)
        return "awake"

    rota.enqueue(conn, "stubborn")
    [ran] = run_due_jobs(conn)
    assert (ran.state, ran.result, raised) == ("SCHEDULED", None, ["HandedBack"] * 2)
    clock.advance(HOUR)

    assert [ran.result for ran in run_due_jobs(conn)] == ["awake"]


def test_jobs_that_follow_come_with_a_finish_that_succeeds(conn, clock):
    @task("split")
    def split(job: Job) -> object:
        parts = [job.next.add("echo", {"part": n}, queue="parts") for n in range(2)]
        job.next.add("gather", after=parts)
        if job.attempt == 1:
            raise ConnectionError
        return "split"

    @task("gather")
    def gather(job: Job) -> object:
        return [[parent.node, parent.state, parent.result] for parent in job.parents()]

    @task("source")
    def source(job: Job) -> object:
        job.next.add("child")
        return 5

    @task("child")
    async def child(job: Job) -> object:
        return [parent.result for parent in await job.parents_async()]

    rota.enqueue(conn, "split")
    [failed] = run_due_jobs(conn)
    clock.advance(HOUR)
    *ran, gathered = run_due_jobs(conn)
    rota.enqueue(conn, "source")
    _, of_child = run_due_jobs(conn)

    assert failed.state == "SCHEDULED"
    assert sorted(one.task for one in ran) == ["echo", "echo", "split"]
    assert gathered.result == [
        ["echo", "COMPLETED", {"part": 0}], ["echo-2", "COMPLETED", {"part": 1}],
    ]  # fmt: skip
    assert of_child.result == [5]


def test_jobs_that_cannot_follow_fail_the_attempt(conn):
    @task("too_much")
    def too_much(job: Job) -> None:
        for _ in range(5):
            job.next.add("echo", "x" * 900_000)

    rota.enqueue(conn, "too_much", max_retries=0)
    [ran] = run_due_jobs(conn)

    assert ran.state == "FAILED"
    assert "what is to come next cannot be stored" in ran.error
