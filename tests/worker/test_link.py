"""A worker's connection: what its session is given, what it asks, what it does about errors."""

import socket
import threading
import time
from contextlib import closing
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from rota.worker.link import Door, GaveUp, Link, Statement, passes


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


def test_of_the_links_of_a_process_one_knocks_at_a_time_while_the_server_is_away() -> None:
    """What answers here is no server: it hangs up at once, and notes when who had come."""
    knocks: list[float] = []
    ended, door = threading.Event(), Door(0.4)

    def turn_away(listener: socket.socket) -> None:
        while not ended.is_set():
            guest, _ = listener.accept()
            knocks.append(time.monotonic())
            time.sleep(0.05)
            guest.close()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"postgresql://nobody@127.0.0.1:{listener.getsockname()[1]}/nowhere?sslmode=disable"
        threading.Thread(target=turn_away, args=[listener], daemon=True).start()
        links = [Link(url, f"test {n}", ended, 5.0, 5.0, door=door) for n in range(4)]
        threads = [threading.Thread(target=knock, args=[one]) for one in links]
        for thread in threads:
            thread.start()
        time.sleep(3)
        ended.set()
        for thread in threads:
            thread.join(10)

    # By 0.22 s on the average, once the first pauses have grown; four by themselves: 40 and more.
    assert 6 <= len(knocks) <= 30
    gaps = [later - earlier for earlier, later in pairwise(knocks[4:-4])]
    assert all(0.03 < gap < 1 for gap in gaps), gaps


def knock(one: Link) -> None:
    with pytest.raises(GaveUp):
        one.run(lambda conn: None)


def test_the_links_of_a_process_follow_the_one_that_is_let_in(db: str) -> None:
    door, ended = Door(60.0), threading.Event()
    away = Link("postgresql://nobody@/nowhere?host=/nowhere", "away", ended, 5.0, 5.0, door=door)
    with pytest.raises(psycopg.OperationalError):
        away.connection()
    assert 0 < door.shut < 1
    began = time.monotonic()
    links = [Link(db, f"test {n}", ended, 5.0, 5.0, door=door) for n in range(4)]

    for one in links:
        one.connection()

    assert door.shut == 0
    assert time.monotonic() - began < 5
    for one in links:
        one.close()


def test_a_link_that_gives_up_does_not_wait_at_the_door() -> None:
    door, ended = Door(1e6), threading.Event()
    away = Link("postgresql://nobody@/nowhere?host=/nowhere", "away", ended, 5.0, 5.0, door=door)
    for _ in range(2):
        with pytest.raises(psycopg.OperationalError):
            away.connection()
    door._shut_until += 1000
    ended.set()
    began = time.monotonic()

    with pytest.raises(psycopg.OperationalError):
        away.connection()

    assert time.monotonic() - began < 5
