"""What ran out is taken out of history while others finish, retry and read: nobody misses a row."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.gateway import call

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
MONDAY = TODAY + (14 - TODAY.weekday()) * DAY  # in a week that has not begun
FILE = f"select pg_relation_filenode('rota.finished_jobs_d{MONDAY:%Y%m%d}')"
COPIED = """
    select from rota.thinned
    where parent = 'finished_jobs' and going is not null and copies and next_block is null
        and open is not null
"""


def end_jobs(conn: Connection, queue: str, number: int, **ending: Any) -> list[dict[str, Any]]:
    jobs = [{"task": "t", "queue": queue, "max_retries": 0}] * number
    call(conn, "enqueue_jobs", jobs=Jsonb(jobs))
    rows = call(conn, "claim_next_job", queues=[queue], max_jobs=number, lease=30 * DAY)
    pairs = [{"job_id": row["id"], "token": row["token"]} for row in rows]
    for pair in pairs:
        call(conn, "finish_job", **pair, **ending)
    return pairs


def step(conn, clock):
    clock.advance(timedelta(seconds=70))
    call(conn, "do_chores")


@pytest.fixture
def history(conn, clock):
    """A day in which much has run out, copied and to be exchanged by the next step."""
    call(conn, "configure_retention", retention=30 * DAY, keep_completed=6 * HOUR)
    call(conn, "configure_queue", queue="kept", keep_completed=20 * DAY)
    call(conn, "maintain")
    clock.set(MONDAY)
    call(conn, "maintain")
    made = {
        "gone": end_jobs(conn, "gone", 60),
        "kept": end_jobs(conn, "kept", 20),
        "failed": end_jobs(conn, "gone", 20, error="x"),
    }
    clock.set(MONDAY + DAY + 7 * HOUR)
    for _ in range(12):
        call(conn, "roll_up")
    for _ in range(20):
        step(conn, clock)
        if conn.execute(COPIED).rowcount:
            break
    else:
        raise AssertionError("nothing was copied")
    clock.advance(timedelta(minutes=5))
    return made


def test_a_finish_that_is_repeated_while_a_partition_is_exchanged_gets_its_answer(
    conn, session, history
):
    upkeep, worker, batch = session(), session(), session()
    pairs = history["kept"]
    upkeep.begin()
    upkeep.call("do_chores")  # the exchange

    again = worker.start("finish_job", **pairs[0])
    many = batch.start(
        "finish_jobs",
        job_ids=[pair["job_id"] for pair in pairs],
        tokens=[pair["token"] for pair in pairs],
    )
    assert again.waits() and many.waits()
    upkeep.commit()

    assert again.answer()[0]["state"] == "COMPLETED"
    assert {row["outcome"] for row in many.answer()} == {"COMPLETED"}
    assert not conn.execute(COPIED).rowcount


def test_a_retry_that_waits_for_the_exchange_finds_its_job(session, history):
    upkeep, operator = session(), session()
    upkeep.begin()
    upkeep.call("do_chores")

    retry = operator.start("retry_job", job_id=history["failed"][0]["job_id"])
    assert retry.waits()
    upkeep.commit()

    assert retry.answer()[0]["state"] == "SCHEDULED"


def test_a_retry_that_is_open_puts_the_exchange_off(conn, connect, clock, history):
    operator = connect(autocommit=False)
    back = history["failed"][0]["job_id"]
    call(operator, "retry_job", job_id=back)

    step(conn, clock)
    assert conn.execute("select from rota.thinned where going is not null").rowcount == 1
    operator.commit()
    for _ in range(8):
        step(conn, clock)

    where = "select tableoid::regclass::text from rota.finished_jobs where id = %s"
    assert conn.execute(where, [back]).rowcount == 0
    assert conn.execute("select state from rota.jobs where id = %s", [back]).fetchone() == (
        "SCHEDULED",
    )
    gone = {pair["job_id"] for pair in history["gone"]}
    assert not gone & {row[0] for row in conn.execute("select id from rota.jobs")}


class Repeater(threading.Thread):
    """Repeats finishes, and looks how many jobs there are, until it is told to stop."""

    def __init__(self, conn: Connection, pairs: list[dict[str, Any]]) -> None:
        super().__init__(daemon=True)
        self._conn = conn
        self._pairs = pairs
        self.going = True
        self.rounds = 0
        self.failures: list[str] = []

    def run(self) -> None:
        ids = [pair["job_id"] for pair in self._pairs]
        while self.going:
            try:
                for pair in self._pairs:
                    call(self._conn, "finish_job", **pair)
                look = "select count(*) from rota.jobs where id = any(%s)"
                seen = self._conn.execute(look, [ids]).fetchone()
                if seen != (len(ids),):
                    self.failures.append(f"{seen} of {len(ids)} jobs")
            except psycopg.Error as error:
                self.failures.append(f"{error.sqlstate}: {error}")
            self.rounds += 1


def test_whoever_repeats_finishes_beside_upkeep_always_gets_the_answer(
    conn, connect, clock, history
):
    """From the first look for what ran out to the exchange, over and over."""
    repeaters = [Repeater(connect(), history["kept"]) for _ in range(3)]
    for repeater in repeaters:
        repeater.start()
    exchanged = 0

    for number in range(5):
        before = conn.execute(FILE).fetchone()
        for _ in range(12):
            step(conn, clock)
        exchanged += conn.execute(FILE).fetchone() != before
        conn.execute("delete from rota.thinned where going is null")  # to be gone through anew
        clock.set(MONDAY + 2 * HOUR)
        end_jobs(conn, "gone", 100)
        clock.set(MONDAY + DAY + 7 * HOUR + number * HOUR)

    for repeater in repeaters:
        repeater.going = False
    for repeater in repeaters:
        repeater.join(30)
    assert [failure for repeater in repeaters for failure in repeater.failures] == []
    assert exchanged >= 2
    assert all(repeater.rounds > 5 for repeater in repeaters)


def test_receipts_answer_while_their_hours_are_made_and_dropped(conn, connect, clock):
    call(conn, "configure_queue", queue="gone", keep_completed=timedelta(0))
    end_jobs(conn, "gone", 1)
    clock.set(MONDAY)
    call(conn, "maintain")
    failures: list[str] = []
    going = True

    def finish_twice(worker: Connection) -> None:
        while going:
            try:
                for pair in end_jobs(worker, "gone", 5):
                    call(worker, "finish_job", **pair)
            except psycopg.Error as error:
                failures.append(f"{error.sqlstate}: {error}")

    threads = [threading.Thread(target=finish_twice, args=[connect()]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        clock.advance(timedelta(minutes=50))
        for _ in range(3):
            call(conn, "do_chores")
        call(conn, "maintain")
    going = False
    for thread in threads:
        thread.join(30)

    assert failures == []
    look = "select count(*) from rota.jobs where finished_at > %s"
    assert conn.execute(look, [MONDAY]).fetchone() == (0,)
    oldest = conn.execute("select min(finished_at) from rota.receipts").fetchone()[0]
    (now,) = conn.execute("select rota._now()").fetchone()
    assert oldest > now - 4 * HOUR
