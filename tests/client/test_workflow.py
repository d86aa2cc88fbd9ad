"""``rota.workflow``: a graph in one call, in the caller's transaction, sync and async."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row

import rota
from rota import Job, task, workflow
from rota.testing import run_due_jobs
from tests.client.test_enqueue import SYNCHRONOUS

AT = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def conn(db):
    with psycopg.connect(db, autocommit=True, row_factory=dict_row) as conn:
        yield conn


def nodes(conn):
    return conn.execute(
        "select job_id, node, task, state, depends_on, if_parent_fails from rota.workflow_nodes"
        " order by job_id"
    ).fetchall()


def test_a_graph_is_enqueued_when_its_block_ends(conn):
    with workflow(conn, "nightly") as w:
        extract = w.add("extract")
        eu = w.add("load", {"region": "eu"}, after=extract)
        us = w.add("load", {"region": "us"}, after=[extract], node="usa")
        report = w.add("report", after=[eu, us])
        tell = w.add("tell", after="all", if_parent_fails="run")
        last = w.add("last", after="previous")
        by_name = w.add("by_name", after="usa")
        assert nodes(conn) == []
        with pytest.raises(RuntimeError, match="not enqueued yet"):
            _ = extract.id

    found = nodes(conn)
    assert [row["depends_on"] for row in found] == [
        [], [extract.id], [extract.id], [eu.id, us.id],
        [extract.id, eu.id, us.id, report.id], [tell.id], [us.id],
    ]  # fmt: skip
    assert [row["job_id"] for row in found] == [
        node.job_id for node in (extract, eu, us, report, tell, last, by_name)
    ]
    assert [row["node"] for row in found] == ["extract", "load", "usa", None, None, None, None]
    assert [row["if_parent_fails"] for row in found] == ["cancel"] * 4 + ["run"] + ["cancel"] * 2
    assert (extract.state, report.state, eu.node) == ("SCHEDULED", "WAITING", "load")
    (status,) = conn.execute("select id, name, state from rota.workflow_status").fetchall()
    assert status == {"id": w.id, "name": "nightly", "state": "RUNNING"}


def test_a_job_has_the_options_that_enqueue_has_and_those_of_its_task(conn, no_handlers):
    @task("tasked", queue="mail", priority=4, max_retries=9)
    def tasked(job: Job) -> None:
        """Do nothing."""

    with workflow(conn) as w:
        w.add(tasked, {"a": [1, None, "☃"]}, priority=-2, run_at=AT, timeout=timedelta(seconds=2.5))
        w.add("plain", unique_key="u", headers={"x": "y"}, key="acme", after="previous")
        w.add(tasked.configure(queue="other"))

    rows = conn.execute(
        "select task, payload, queue, priority, max_retries, scheduled_for, timeout, unique_key,"
        " headers, key from rota.jobs order by id"
    ).fetchall()
    assert rows[0] == {
        "task": "tasked", "payload": {"a": [1, None, "☃"]}, "queue": "mail", "priority": -2,
        "max_retries": 9, "scheduled_for": AT, "timeout": timedelta(seconds=2.5),
        "unique_key": None, "headers": None, "key": None,
    }  # fmt: skip
    assert (rows[1]["unique_key"], rows[1]["headers"], rows[1]["key"]) == ("u", {"x": "y"}, "acme")
    assert (rows[1]["payload"], rows[1]["queue"]) == ({}, "default")
    assert rows[2]["queue"] == "other"


def test_a_block_that_raises_enqueues_nothing(conn):
    with pytest.raises(KeyError), workflow(conn) as w:
        w.add("a")
        raise KeyError

    assert conn.execute("select from rota.jobs").fetchall() == []
    with workflow(conn) as empty:
        pass
    with pytest.raises(RuntimeError, match="is not enqueued"):
        _ = empty.id


def test_what_is_refused_is_refused_whole(conn):
    def refused(add):
        with pytest.raises(psycopg.Error) as error, workflow(conn) as w:
            w.add("a", node="a")
            add(w)
        return error.value.sqlstate

    rota.enqueue(conn, "taken", unique_key="k")

    assert refused(lambda w: w.add("b", after="nobody")) == "RTV01"
    assert refused(lambda w: w.add("b", after=10**9)) == "RTN01"
    assert refused(lambda w: w.add("b", unique_key="k")) == "RTC03"
    assert refused(lambda w: w.add(None)) == "RTV01"
    assert len(conn.execute("select from rota.jobs").fetchall()) == 1


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("a",), {"replace": True}, "no option 'replace'"),
        (("a",), {"queues": "q"}, "no option 'queues'"),
        (("a",), {"run_at": datetime(2040, 1, 1)}, "needs a time zone"),
        (("a", {1, 2}), {}, "payload"),
        (("a",), {"after": 1.5}, "cannot depend on 1.5"),
        (("a",), {"after": [True]}, "cannot depend on True"),
        (("a",), {"after": [None]}, "cannot depend on None"),
    ],
)
def test_what_cannot_be_sent_is_said_where_it_is_added(conn, arguments, options, words):
    with pytest.raises((TypeError, ValueError), match=words), workflow(conn) as w:
        w.add(*arguments, **options)


def test_jobs_of_other_workflows_and_of_none_can_be_depended_on(conn):
    plain = rota.enqueue(conn, "plain")
    with workflow(conn) as first:
        a = first.add("a")
        with pytest.raises(ValueError, match="not enqueued yet"), workflow(conn) as within:
            within.add("b", after=a)
    with workflow(conn) as second:
        second.add("c", after=[plain, a])
        second.add("d", after=plain)
        second.add("e", after=a.id)

    assert [row["depends_on"] for row in nodes(conn)] == [
        [], [plain.id, a.id], [plain.id], [a.id],
    ]  # fmt: skip


def test_a_name_that_is_given_is_not_given_to_another(conn):
    with workflow(conn) as w:
        one = w.add("a" * 200)
        two = w.add("a" * 200, after=one)
        three = w.add("a" * 200, node="a" * 190 + "-2", after=two)
        w.add("b", after=three)

    names = [row["node"] for row in nodes(conn)]
    assert names == ["a" * 190, "a" * 190 + "-3", "a" * 190 + "-2", None]


@pytest.mark.parametrize("library", SYNCHRONOUS)
def test_a_workflow_is_part_of_the_transaction(db, conn, library):
    for ends in ("rollback", "commit"):
        with SYNCHRONOUS[library](db) as (mine, commit, rollback):
            with workflow(mine, "n") as w:
                w.add("b", after=w.add("a"))
            waits = rota.emit_event(mine, f"{library}: {ends}", {"x": 1})
            (commit if ends == "commit" else rollback)()
        assert waits == 0
        assert len(nodes(conn)) == (2 if ends == "commit" else 0)
    events = conn.execute("select name, payload from rota.events").fetchall()
    assert events == [{"name": f"{library}: commit", "payload": {"x": 1}}]


def test_asynchronous_connections_take_async_with(db, conn):
    async def enqueue():
        mine = await asyncpg.connect(db)
        async with mine.transaction():
            async with workflow(mine, "n") as w:
                node = w.add("b", after=w.add("a"))
            assert await rota.emit_event_async(mine, "e", [1]) == 0
        with pytest.raises(TypeError, match="async with"), workflow(mine):
            pass
        await mine.close()
        async with await psycopg.AsyncConnection.connect(db) as other, workflow(other) as v:
            v.add("c", after=node)
        with pytest.raises(TypeError, match="is not asynchronous: with workflow"):
            async with workflow(conn):
                pass
        return w, node

    w, node = asyncio.run(enqueue())

    assert [row["state"] for row in nodes(conn)] == ["SCHEDULED", "WAITING", "WAITING"]
    assert nodes(conn)[2]["depends_on"] == [node.id]
    assert w.id < node.id


def test_a_workflow_runs_in_its_order(conn, no_handlers):
    @task("number")
    def number(job: Job) -> object:
        return sum(parent.result for parent in job.parents()) + job.payload["plus"]

    with workflow(conn) as w:
        first = w.add(number, {"plus": 1})
        middle = [w.add(number, {"plus": 10}, after=first) for _ in range(3)]
        w.add(number, {"plus": 100}, after=middle)

    with psycopg.connect(conn.info.dsn, autocommit=True) as plain:
        ran = run_due_jobs(plain)

    assert [one.result for one in ran] == [1, 11, 11, 11, 133]
