"""A worker's connection: what its session is given, and what it does about errors."""

import threading

import pytest

from worker.link import GaveUp, Link


def link(url: str, patience: float = 5.0, durable: bool = True) -> Link:
    return Link(url, "test", threading.Event(), patience, 5.0, durable)


@pytest.mark.parametrize(("durable", "expected"), [(True, "on"), (False, "off")])
def test_commits_are_durable_unless_they_need_not_be(db: str, durable: bool, expected: str) -> None:
    ours = link(db, durable=durable)

    assert ours.connection().execute("show synchronous_commit").fetchone() == (expected,)

    ours.close()


def test_a_statement_that_ran_out_of_time_is_given_more(db: str) -> None:
    ours = link(db, patience=0.3)

    ours.run(lambda conn: conn.execute("select pg_sleep(0.5)"))

    assert ours.connection().execute("show statement_timeout").fetchone() == ("600ms",)
    ours.close()


def test_a_statement_that_was_cancelled_in_time_is_not_given_more(db: str) -> None:
    ours = link(db)
    ours._give_up.set()  # a failure is not followed by another try

    with pytest.raises(GaveUp):
        ours.run(lambda conn: conn.execute("select pg_cancel_backend(pg_backend_pid())"))

    assert ours.connection().execute("show statement_timeout").fetchone() == ("5s",)
    ours.close()
