"""A worker's connection: what its session is given, and what it does about errors."""

import threading
import time
from typing import Any

import pytest

from worker.link import GaveUp, Link


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
