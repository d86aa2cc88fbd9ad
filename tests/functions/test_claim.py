"""Which jobs a claim takes, in which order, and what it writes."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from db.gateway import call


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
