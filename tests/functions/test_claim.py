"""Which jobs a claim takes, how many, of how many bytes, in which order, and what it writes."""

import os
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call

LARGE = 100_000  # bytes


def enqueue(conn, task, **arguments):
    return call(conn, "enqueue_job", task=task, **arguments)[0]["job_id"]


def server_time(conn):
    return conn.execute("select clock_timestamp()").fetchone()[0]


def claim_tasks(conn, **arguments):
    return [row["task"] for row in call(conn, "claim_next_job", **arguments)]


def test_a_claim_leases_the_job_to_the_worker(conn):
    job_id = enqueue(
        conn, "greet", payload=Jsonb({"name": "Ada"}), priority=4, timeout=timedelta(minutes=1)
    )

    before = server_time(conn)
    (claimed,) = call(conn, "claim_next_job", worker="w1", lease=timedelta(seconds=30))
    after = server_time(conn)

    assert claimed["id"] == job_id
    assert (claimed["task"], claimed["payload"]) == ("greet", {"name": "Ada"})
    assert (claimed["queue"], claimed["priority"]) == ("default", 4)
    assert (claimed["attempt"], claimed["max_retries"]) == (1, 3)
    assert claimed["timeout"] == timedelta(minutes=1)
    assert before <= claimed["lease_until"] - timedelta(seconds=30) <= after
    state = conn.execute(
        "select state, worker, attempt, lease_until from rota.jobs where id = %s", [job_id]
    ).fetchone()
    assert state == ("RUNNING", "w1", 1, claimed["lease_until"])


def test_a_claim_without_a_name_is_held_by_its_session(conn):
    enqueue(conn, "a")
    call(conn, "claim_next_job")

    worker = conn.execute("select worker from rota.jobs").fetchone()[0]

    assert worker == f"{conn.info.user}, pid {conn.info.backend_pid}"


def test_an_empty_claim_returns_no_rows_and_takes_no_transaction_id(connect):
    conn = connect(autocommit=False)

    assert call(conn, "claim_next_job", queues=["default", "other"]) == []
    assert conn.execute("select pg_current_xact_id_if_assigned()").fetchone()[0] is None


def test_a_lane_without_due_jobs_takes_no_transaction_id_either(connect):
    conn = connect(autocommit=False)
    enqueue(conn, "later", run_at=datetime.now(UTC) + timedelta(days=1))
    conn.commit()

    assert call(conn, "claim_next_job") == []
    assert conn.execute("select pg_current_xact_id_if_assigned()").fetchone()[0] is None


def test_higher_priority_runs_first_and_then_the_older_run_at(conn):
    now = datetime.now(UTC)
    enqueue(conn, "second", run_at=now - timedelta(minutes=2))
    enqueue(conn, "third", run_at=now - timedelta(minutes=1))
    enqueue(conn, "last", priority=-100, run_at=now - timedelta(days=1))
    enqueue(conn, "first", priority=100)
    enqueue(conn, "not due", priority=100, run_at=now + timedelta(hours=1))

    assert claim_tasks(conn, max_jobs=2) == ["first", "second"]
    assert claim_tasks(conn, max_jobs=10) == ["third", "last"]


def test_jobs_of_one_run_at_go_in_the_order_of_their_ids(conn):
    at = datetime.now(UTC) - timedelta(minutes=1)
    for number in range(20):
        enqueue(conn, str(number), run_at=at)

    assert claim_tasks(conn, max_jobs=20) == [str(number) for number in range(20)]


def test_of_queues_with_one_priority_the_longest_waiting_goes_first(conn):
    now = datetime.now(UTC)
    enqueue(conn, "young", queue="a", run_at=now - timedelta(minutes=1))
    enqueue(conn, "old", queue="b", run_at=now - timedelta(minutes=2))

    assert claim_tasks(conn, queues=["a", "b"]) == ["old"]
    assert claim_tasks(conn, queues=["a", "b"]) == ["young"]


def test_priority_counts_across_the_queues_of_a_call(conn):
    now = datetime.now(UTC)
    enqueue(conn, "low", queue="a", run_at=now - timedelta(hours=1))
    enqueue(conn, "high", queue="b", priority=1)

    assert claim_tasks(conn, queues=["a", "b"], max_jobs=2) == ["high", "low"]


def test_only_the_callers_queues_are_looked_at(conn):
    enqueue(conn, "mine", queue="mail")
    enqueue(conn, "other")

    assert claim_tasks(conn, queues=["mail"], max_jobs=10) == ["mine"]


def test_a_paused_queue_gives_nothing_until_it_is_resumed(conn):
    enqueue(conn, "a", queue="mail")
    call(conn, "pause_queue", queue="mail")

    assert claim_tasks(conn, queues=["mail"]) == []

    call(conn, "resume_queue", queue="mail")
    assert claim_tasks(conn, queues=["mail"]) == ["a"]


def test_a_batch_shares_one_token_and_never_exceeds_its_limit(conn):
    for number in range(30):
        enqueue(conn, str(number), priority=number % 3)

    first = call(conn, "claim_next_job", max_jobs=20)
    second = call(conn, "claim_next_job", max_jobs=20)

    assert (len(first), len(second)) == (20, 10)
    assert len({row["token"] for row in first}) == 1
    assert {row["token"] for row in first}.isdisjoint(row["token"] for row in second)


def test_a_lease_in_an_old_transaction_counts_from_the_claim(connect):
    conn = connect(autocommit=False)
    enqueue(conn, "a")
    before = server_time(conn)

    (claimed,) = call(conn, "claim_next_job", lease=timedelta(minutes=1))

    after = server_time(conn)
    assert before <= claimed["lease_until"] - timedelta(minutes=1) <= after
    conn.rollback()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_claim_refuses_the_higher_isolation_levels(connect, level):
    conn = connect(autocommit=False)
    conn.execute(f"set transaction isolation level {level}")

    with pytest.raises(psycopg.Error, match="READ COMMITTED") as caught:
        call(conn, "claim_next_job")

    assert caught.value.sqlstate == "RTC04"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"queues": None}, "queues"),
        ({"lease": timedelta(0)}, "lease"),
        ({"lease": timedelta(days=31)}, "lease"),
        ({"lease": None}, "lease"),
        ({"max_jobs": 0}, "max_jobs"),
        ({"max_jobs": 10_001}, "max_jobs"),
        ({"max_jobs": None}, "max_jobs"),
    ],
)
def test_a_claim_names_the_argument_that_is_wrong(conn, arguments, named):
    enqueue(conn, "a")

    with pytest.raises(psycopg.Error, match=named) as caught:
        call(conn, "claim_next_job", **arguments)

    assert caught.value.sqlstate == "RTV01"
    assert claim_tasks(conn) == ["a"]


def test_a_job_is_not_claimed_before_its_time(conn, clock):
    enqueue(conn, "later", run_at=datetime.now(UTC) + timedelta(hours=1))
    assert claim_tasks(conn) == []

    clock.advance(timedelta(minutes=61))

    assert claim_tasks(conn) == ["later"]


def test_a_rolled_back_claim_gives_the_job_back_at_once(connect):
    conn = connect(autocommit=False)
    enqueue(conn, "a")
    conn.commit()
    assert claim_tasks(conn) == ["a"]
    conn.rollback()

    (claimed,) = call(conn, "claim_next_job")
    conn.commit()

    assert claimed["attempt"] == 1


def test_a_schedule_that_has_nothing_to_run_does_not_end_the_claim(conn, clock):
    """It is moved to its next slot, and the jobs of the other lanes are claimed."""
    call(
        conn,
        "schedule_job",
        task="tick",
        every=timedelta(hours=1),
        misfire="skip",
        priority=5,
    )
    clock.advance(timedelta(minutes=90))
    enqueue(conn, "plain")

    assert claim_tasks(conn, max_jobs=5) == ["plain"]


def test_the_jobs_of_a_claim_come_in_the_order_of_their_times(conn):
    now = datetime.now(UTC)
    for number in (3, 1, 4, 0, 2):
        enqueue(conn, str(number), run_at=now - timedelta(minutes=10 - number))

    assert claim_tasks(conn, max_jobs=5) == ["0", "1", "2", "3", "4"]


def test_no_token_can_be_told_from_what_is_known(conn):
    """Two claims of one job at one moment, by one worker, have different tokens; random ones."""
    conn.execute(
        "create or replace function rota._now() returns timestamptz language sql"
        " as $$ select timestamptz '2030-01-01' $$"
    )
    enqueue(conn, "a")
    tokens = set()
    for _ in range(3):
        (claimed,) = call(conn, "claim_next_job", worker="w")
        tokens.add(claimed["token"])
        call(conn, "release_job", job_id=claimed["id"], token=claimed["token"])

    assert len(tokens) == 3
    assert {token.version for token in tokens} == {4}


def test_a_claim_takes_as_many_jobs_of_a_lane_as_it_asks_for(conn):
    for number in range(5):
        call(conn, "enqueue_job", task=str(number))

    assert claim_tasks(conn) == ["0"]
    assert claim_tasks(conn, max_jobs=3) == ["1", "2", "3"]
    assert claim_tasks(conn, max_jobs=3) == ["4"]


def test_a_job_that_came_later_and_is_due_longer_goes_first(conn):
    now = datetime.now(UTC)
    call(conn, "enqueue_job", task="young", run_at=now - timedelta(minutes=1))
    call(conn, "enqueue_job", task="old", run_at=now - timedelta(hours=1))

    assert claim_tasks(conn) == ["old"]
    assert claim_tasks(conn) == ["young"]


def test_a_job_that_runs_is_not_claimed_again(conn):
    call(conn, "enqueue_job", task="only")

    assert claim_tasks(conn) == ["only"]
    assert claim_tasks(conn, max_jobs=10) == []


def enqueue_bytes(conn, task, size=0, repeated=None, **arguments):
    """Add a job with so many bytes of payload, which does not compress unless it repeats itself."""
    text = (repeated * size)[:size] if repeated else os.urandom(size // 2).hex()
    call(conn, "enqueue_job", task=task, payload=Jsonb({"text": text}), **arguments)


def test_a_claim_stops_when_the_payloads_pass_its_limit(conn):
    for number in range(10):
        enqueue_bytes(conn, str(number), LARGE)

    assert claim_tasks(conn, max_jobs=10, max_bytes=int(2.5 * LARGE)) == ["0", "1", "2"]
    assert claim_tasks(conn, max_jobs=2, max_bytes=10 * LARGE) == ["3", "4"]
    assert claim_tasks(conn, max_jobs=10) == ["5", "6", "7", "8", "9"]


def test_a_claim_takes_one_job_however_large_it_is(conn):
    for number in range(3):
        enqueue_bytes(conn, str(number), LARGE)

    assert claim_tasks(conn, max_jobs=1, max_bytes=1) == ["0"]
    assert claim_tasks(conn, max_jobs=10, max_bytes=1) == ["1"]


def test_small_payloads_are_claimed_as_if_there_were_no_limit(conn):
    for number in range(300):
        enqueue_bytes(conn, str(number))

    claimed = claim_tasks(conn, max_jobs=200, max_bytes=LARGE)

    assert claimed == [str(number) for number in range(200)]


def test_what_counts_is_the_text_that_is_sent_not_how_it_is_stored(conn):
    for number in range(60):
        enqueue_bytes(conn, str(number), LARGE, repeated="again")
    stored = conn.execute("select max(pg_column_size(payload)) from rota.live_jobs").fetchone()[0]
    assert stored < LARGE / 20, "this was to be compressed"

    assert len(claim_tasks(conn, max_jobs=60, max_bytes=5 * LARGE)) == 5
    assert len(claim_tasks(conn, max_jobs=60, max_bytes=100 * LARGE)) == 55


def test_large_payloads_behind_small_ones_end_the_claim(conn):
    for _ in range(150):
        enqueue_bytes(conn, "small")
    for _ in range(10):
        enqueue_bytes(conn, "large", LARGE)

    claimed = claim_tasks(conn, max_jobs=1000, max_bytes=3 * LARGE)

    assert claimed == ["small"] * 150 + ["large"] * 3


def test_the_limit_holds_for_all_queues_and_priorities_of_a_claim_together(conn):
    for queue in ("a", "b"):
        for priority in (0, 1):
            enqueue_bytes(conn, f"{queue}{priority}", LARGE, queue=queue, priority=priority)

    claimed = claim_tasks(conn, queues=["a", "b"], max_jobs=10, max_bytes=int(1.5 * LARGE))

    assert sorted(claimed) == ["a1", "b1"]


def test_an_open_claim_of_few_large_jobs_hides_few_others(connect):
    conn, other = connect(autocommit=False), connect()
    for number in range(110):
        enqueue_bytes(other, str(number), LARGE)

    assert claim_tasks(conn, max_jobs=110, max_bytes=3 * LARGE) == ["0", "1", "2"]

    assert claim_tasks(other, max_jobs=3) == ["100", "101", "102"]
    conn.commit()
    assert claim_tasks(other, max_jobs=1) == ["3"]


@pytest.mark.parametrize("max_bytes", [0, -1])
def test_a_limit_of_no_bytes_is_refused(conn, max_bytes):
    with pytest.raises(psycopg.Error, match="max_bytes") as caught:
        call(conn, "claim_next_job", max_bytes=max_bytes)

    assert caught.value.sqlstate == "RTV01"
