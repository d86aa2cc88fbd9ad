"""A worker's connection: what its session is given, what it asks, what it does about errors."""

import threading
import time
from typing import Any

import psycopg
import pytest

from rota.worker.link import GaveUp, Link, Statement, passes


def link(url: str, patience: float = 5.0, **more: Any) -> Link:
    return Link(url, "test", threading.Event(), patience, 5.0, **more)


@pytest.mark.parametrize(("durable", "expected"), [(True, "on"), (False, "off")])
def test_commits_are_durable_unless_they_need_not_be(db: str, durable: bool, expected: str) -> None:
    ours = link(db, durable=durable)

    assert ours.connection().execute("show synchronous_commit").fetchone() == (expected,)

    ours.close()


def test_a_statement_that_ran_out_of_time_is_given_more(db: str) -> None:
    ours = link(db, patience=0.3, most_patience=9.0)

    ours.run(lambda conn: conn.execute("select pg_sleep(0.5)"))

    assert ours.connection().execute("show statement_timeout").fetchone() == ("600ms",)
    ours.close()


@pytest.mark.parametrize("most_patience", [0.0, 0.3])
def test_a_statement_is_not_given_more_than_its_link_may(db: str, most_patience: float) -> None:
    ours = link(db, patience=0.3, most_patience=most_patience)
    ours._give_up.set()

    with pytest.raises(GaveUp):
        ours.run(lambda conn: conn.execute("select pg_sleep(0.5)"))

    assert ours.connection().execute("show statement_timeout").fetchone() == ("300ms",)
    ours.close()


def test_a_statement_is_cancelled_from_another_thread(db: str) -> None:
    ours = link(db, patience=60.0)
    ours.connection()
    ours._give_up.set()
    canceller = threading.Timer(0.3, ours.cancel)
    canceller.start()
    began = time.monotonic()

    with pytest.raises(GaveUp):
        ours.run(lambda conn: conn.execute("select pg_sleep(50)"))

    assert time.monotonic() - began < 10
    canceller.join()
    ours.close()


def test_a_statement_that_was_cancelled_in_time_is_not_given_more(db: str) -> None:
    ours = link(db, most_patience=60.0)
    ours._give_up.set()  # a failure is not followed by another try

    with pytest.raises(GaveUp):
        ours.run(lambda conn: conn.execute("select pg_cancel_backend(pg_backend_pid())"))

    assert ours.connection().execute("show statement_timeout").fetchone() == ("5s",)
    ours.close()


DIVIDE = "select 7 / $1::integer, $2::text, null::float8"


def test_a_statement_is_prepared_once_in_each_session(db: str) -> None:
    ours, statement = link(db), Statement("divide", DIVIDE)
    prepared = "select count(*), sum(generic_plans + custom_plans) from pg_prepared_statements"

    for _ in range(2):
        conn = ours.connection()
        for _ in range(3):
            assert statement.rows(conn, ["2", "ä"]) == [(3, "ä", None)]
        assert conn.execute(prepared).fetchone() == (1, 3)
        ours.close()


def test_a_statement_leaves_nothing_behind_where_sessions_are_shared(db: str) -> None:
    ours = link(db)
    conn = ours.connection()
    conn.prepare_threshold = None

    assert Statement("divide", DIVIDE).rows(conn, ["2", "ä"]) == [(3, "ä", None)]

    assert conn.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)
    ours.close()


@pytest.mark.parametrize("prepare_threshold", [5, None])
def test_what_the_server_refuses_is_raised(db: str, prepare_threshold: int | None) -> None:
    ours = link(db)
    conn = ours.connection()
    conn.prepare_threshold = prepare_threshold
    statement = Statement("divide", DIVIDE)

    with pytest.raises(psycopg.errors.DivisionByZero) as caught:
        statement.rows(conn, ["0", ""])
    assert not passes(caught.value)
    with pytest.raises(psycopg.errors.UndefinedTable):
        Statement("nothing", "select from nothing").rows(conn, [])

    assert statement.rows(conn, ["7", ""]) == [(1, "", None)]
    ours.close()


def test_a_statement_whose_session_ends_may_be_tried_again(db: str) -> None:
    ours = link(db)
    conn = ours.connection()

    with pytest.raises(psycopg.OperationalError) as caught:
        Statement("end", "select pg_terminate_backend(pg_backend_pid())").rows(conn, [])
    assert passes(caught.value)
    with pytest.raises(psycopg.OperationalError) as caught:
        Statement("divide", DIVIDE).rows(conn, ["1", ""])

    assert passes(caught.value)
    assert conn.closed
