"""``@task``: a handler's jobs by its own arguments, and what of that is refused."""

import asyncio
from datetime import timedelta

import psycopg
import pytest
from psycopg.rows import dict_row

import rota
from rota import Job, task
from rota.testing import run_due_jobs
from rota.worker.tasks import registry

seen: list[tuple] = []


@pytest.fixture(autouse=True)
def forget():
    seen.clear()


@pytest.fixture
def conn(db):
    with psycopg.connect(db, autocommit=True, row_factory=dict_row) as conn:
        yield conn


def the_job(conn):
    return conn.execute(
        "select task, payload, queue, priority, max_retries, timeout, unique_key, key"
        " from rota.jobs"
    ).fetchone()


def test_a_job_is_enqueued_by_its_handler_s_arguments_and_run_with_them(conn):
    @task("send_email", queue="mail", max_retries=5)
    def send_email(job: Job, to: str, *, subject: str = "hello", copies: int = 1) -> None:
        seen.append((job.task, to, subject, copies))

    send_email.enqueue(conn, to="a@b.c", copies=2)

    job = the_job(conn)
    assert (job["task"], job["queue"], job["max_retries"]) == ("send_email", "mail", 5)
    assert job["payload"] == {"to": "a@b.c", "copies": 2}
    [ran] = run_due_jobs(conn)
    assert ran.state == "COMPLETED"
    assert seen == [("send_email", "a@b.c", "hello", 2)]


def test_arguments_may_be_given_by_place(conn):
    @task("add")
    def add(job: Job, a: int, b: int) -> int:
        return a + b

    add.enqueue(conn, 2, 3)

    assert the_job(conn)["payload"] == {"a": 2, "b": 3}
    assert run_due_jobs(conn)[0].result == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "the arguments do not fit send: missing a required argument: 'to'"),
        ({"to": 1, "cc": 2}, "the arguments do not fit send: got an unexpected keyword"),
    ],
)
def test_arguments_that_the_handler_does_not_take_are_refused_at_once(conn, arguments, words):
    @task("send")
    def send(job: Job, to: str) -> None: ...

    with pytest.raises(TypeError, match=words):
        send.enqueue(conn, **arguments)
    with pytest.raises(TypeError, match=words):
        asyncio.run(send.enqueue_async(conn, **arguments))
    assert the_job(conn) is None


@pytest.mark.parametrize("payload", [{}, {"to": 1, "cc": 2}, {"job": 1}, [1], "text", None])
def test_a_payload_that_does_not_fit_fails_the_attempt_with_its_reason(conn, payload):
    @task("send")
    def send(job: Job, to: str) -> None:
        seen.append(("never",))

    rota.enqueue(conn, "send", payload, max_retries=0)

    [ran] = run_due_jobs(conn)
    assert ran.state == "FAILED"
    assert "TypeError: the " in ran.error
    assert seen == []


def test_a_handler_of_the_job_alone_takes_any_payload(conn):
    @task("any")
    def anything(job: Job) -> None:
        seen.append(job.payload)

    rota.enqueue(conn, "any", [1, "two"])
    anything.enqueue(conn, three=3)
    with pytest.raises(TypeError, match="takes its arguments by name"):
        anything.enqueue(conn, 4)

    run_due_jobs(conn)
    assert seen == [[1, "two"], {"three": 3}]


def test_an_argument_that_would_be_the_job_is_refused_with_what_to_write(conn):
    @task("oops")
    def oops(to) -> None: ...

    with pytest.raises(TypeError, match=r"'to' is the job .*: write def handler\(job, to\)"):
        oops.enqueue(conn, to="a@b.c")


def test_a_handler_may_take_whatever_else_there_is(conn):
    @task("loose")
    def loose(job: Job, to: str, **rest: int) -> None:
        seen.append((to, rest))

    loose.enqueue(conn, "x", a=1, b=2)

    assert the_job(conn)["payload"] == {"to": "x", "a": 1, "b": 2}
    run_due_jobs(conn)
    assert seen == [("x", {"a": 1, "b": 2})]


def test_an_argument_named_as_a_parameter_of_ours_is_the_handler_s(conn):
    @task("names")
    def names(job: Job, conn: str, self: str, task: str, payload: int) -> None:
        seen.append((conn, self, task, payload))

    names.enqueue(conn, conn="c", self="s", task="t", payload=1)

    assert run_due_jobs(conn)[0].state == "COMPLETED"
    assert seen == [("c", "s", "t", 1)]


def test_a_coroutine_is_a_handler_too(conn):
    @task("later")
    async def later(job: Job, n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    later.enqueue(conn, n=1)

    assert later.is_coroutine
    assert run_due_jobs(conn)[0].result == 2


def test_options_are_for_this_task_and_can_be_changed_for_a_call(conn):
    @task("report", queue="slow", timeout=timedelta(minutes=5))
    def report(job: Job, day: str) -> None: ...

    again = report.configure(priority=7, unique_key="today", queue="fast", key="acme")
    assert again.enqueue(conn, day="x").created
    assert not again.enqueue(conn, day="x").created

    assert the_job(conn) == {
        "task": "report",
        "payload": {"day": "x"},
        "queue": "fast",
        "priority": 7,
        "max_retries": 3,
        "timeout": timedelta(minutes=5),
        "unique_key": "today",
        "key": "acme",
    }
    report.enqueue(conn, day="y")
    assert conn.execute("select count(*) from rota.jobs where queue = 'slow'").fetchone() == {
        "count": 1
    }


def test_a_handler_sees_the_key_of_its_job(conn):
    @task("sync", key="all")
    def sync(job: Job) -> None:
        seen.append((job.queue, job.key))

    sync.enqueue(conn)
    sync.configure(key="acme").enqueue(conn)
    sync.configure(key=None).enqueue(conn)
    run_due_jobs(conn)

    assert sorted(seen, key=str) == [("default", "acme"), ("default", "all"), ("default", None)]


def test_a_task_may_be_throttled_or_debounced(conn):
    @task("sync", unique_key="sync", unique_for=timedelta(hours=1))
    def sync(job: Job) -> None: ...

    @task("index", unique_key="page 3", unique_for=60, replace=True)
    def index(job: Job, version: int) -> int:
        return version

    first = sync.enqueue(conn)
    assert index.enqueue(conn, 1).id == index.enqueue(conn, 2).id
    ran = run_due_jobs(conn)

    assert [one.result for one in ran if one.task == "index"] == [2]
    assert sync.enqueue(conn) == (first.id, False)
    assert index.enqueue(conn, 3).created


def test_a_handler_stays_a_function_that_a_test_can_call():
    @task("plain")
    def plain(job: Job, n: int) -> int:
        """Say what it does."""
        return n * 2

    assert plain(None, 4) == 8
    assert (plain.__name__, plain.__doc__) == ("plain", "Say what it does.")
    assert repr(plain) == "<Task 'plain'>"


def test_enqueue_takes_the_task_itself_for_its_name(conn):
    @task("named")
    def named(job: Job) -> None: ...

    rota.enqueue(conn, named)
    rota.enqueue_many(conn, [{"task": named}])
    rota.schedule(conn, named, every="1 hour")

    tasks = conn.execute("select distinct task from rota.jobs").fetchall()
    assert tasks == [{"task": "named"}]


def test_what_cannot_be_a_handler_is_refused_where_it_stands():
    with pytest.raises(TypeError, match='a task has a name: @task\\("send_email"\\)'):

        @task
        def nameless(job: Job) -> None: ...

    with pytest.raises(TypeError, match="a task has no option 'retries'; it has headers, key"):

        @task("t", retries=3)
        def misspelt(job: Job) -> None: ...

    with pytest.raises(TypeError, match="must take the job as its first parameter"):

        @task("t")
        def nothing() -> None: ...

    with pytest.raises(TypeError, match="must take the job as its first parameter"):

        @task("t")
        def by_name(*, job: Job) -> None: ...

    with pytest.raises(TypeError, match="must take the job as its first parameter"):

        @task("t")
        def an_argument(to: str) -> None: ...

    with pytest.raises(TypeError, match="must take the job as its first parameter"):

        @task("t")
        def an_argument_in_words(to: "int", more: "int") -> None: ...

    with pytest.raises(TypeError, match="must take 'to' by name"):

        @task("t")
        def by_place(job: Job, to: str, /) -> None: ...

    assert "t" not in registry


def test_a_task_has_one_handler_which_may_have_two_names():
    @task("one")
    @task("two")
    def handler(job: Job) -> str:
        return job.task

    assert registry["one"].handler is registry["two"].handler
    with pytest.raises(ValueError, match="task 'one' has a handler already"):

        @task("one")
        def other(job: Job) -> None: ...
