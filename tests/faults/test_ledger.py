"""Exactly once: a handler's effects on this database, and its finish, in one transaction."""

import psycopg
import pytest

from tests.faults.harness import BOOKS, House, assert_balanced, only_long
from tests.waiting import wait_until

JOBS = 40


@pytest.fixture
def bank(house: House) -> House:
    """A house with two accounts, between which jobs move money."""
    house.execute(BOOKS)
    return house


def test_workers_killed_in_the_midst_of_transfers_leave_the_books_balanced(bank: House):
    points = ["effect:start", "effect:held", "effect:finishing", "effect:finished", "effect:done"]
    bank.produce(JOBS, task="transfer")
    for point in points:
        worker = bank.worker(die_at=point, lease=1, concurrency=1)
        with bank.fault(f"worker dies at {point}", worker.pid):
            wait_until(lambda worker=worker: not worker.alive)
    bank.worker()
    bank.worker()

    bank.decide(jobs=JOBS, faults=len(points))

    assert_balanced(bank, JOBS)


@only_long
def test_workers_killed_at_random_leave_the_books_balanced(bank: House):
    workers = [bank.worker(lease=1) for _ in range(2)]
    bank.produce(JOBS, task="transfer", payload={"seconds": 0.02})
    for number in range(6):
        before = bank.effects("held")
        wait_until(lambda before=before: bank.effects("held") > before or not bank.live())
        bank.kill(workers[number % 2])
        workers[number % 2] = bank.worker(lease=1)

    bank.decide(jobs=JOBS, faults=6)

    assert_balanced(bank, JOBS)


def test_a_transfer_that_stood_still_while_it_held_its_lease_is_not_taken_back(bank: House):
    bank.produce(1, task="transfer", payload={"seconds": 0.5})
    sleeper = bank.worker(lease=1, concurrency=1)
    wait_until(lambda: bank.effects("held"))
    with bank.stopped(sleeper):
        bank.worker()
        wait_until(lambda: bank.value("select lease_until < clock_timestamp() from rota.live_jobs"))
        assert bank.value("select rota.recover_jobs()") == 0  # its row is locked

    bank.decide(jobs=1)

    assert bank.outcomes("transfer") == [["SUCCEEDED"]]
    assert_balanced(bank, 1)


def test_a_transfer_that_stood_still_before_it_held_its_lease_is_refused(bank: House):
    bank.produce(1, task="transfer", payload={"pause": 1})
    sleeper = bank.worker(lease=1, concurrency=1)
    wait_until(lambda: bank.effects("start"))
    with bank.stopped(sleeper):
        bank.worker()
        bank.drain()
    wait_until(lambda: "LEASE_LOST" in sleeper.log.read_text())

    bank.decide(jobs=1, late=1)

    assert bank.outcomes("transfer") == [["LOST", "SUCCEEDED"]]
    assert_balanced(bank, 1)


def test_a_transfer_whose_session_is_ended_is_undone_and_made_once(bank: House):
    bank.produce(8, task="transfer", payload={"seconds": 0.3})
    bank.worker()
    wait_until(lambda: bank.effects("held"))
    with bank.fault("sessions ended", "server"), psycopg.connect(bank.url) as conn:
        conn.execute(
            """
            select pg_terminate_backend(a.pid)
            from pg_stat_activity as a
            where a.datname = current_database() and a.state = 'idle in transaction'
            """
        )

    bank.decide(jobs=8)

    assert_balanced(bank, 8)
