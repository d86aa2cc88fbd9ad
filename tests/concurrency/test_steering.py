"""What operators do at the same time: tokens, and many jobs at once."""

import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.concurrency.sessions import Session, forget_cursors, sqlstate

HASH = b"x" * 32


def enqueue(conn: Connection, **arguments) -> int:
    return call(conn, "enqueue_job", task="t", **arguments)[0]["job_id"]


def failed(conn: Connection, **arguments) -> int:
    job_id = enqueue(conn, queue="failing", **arguments)
    forget_cursors(conn)
    (job,) = call(conn, "claim_next_job", queues=["failing"])
    call(conn, "finish_job", job_id=job["id"], token=job["token"], error="x", retry=False)
    return job_id


def states(conn: Connection) -> list[str]:
    return [state for (state,) in conn.execute("select state from rota.jobs order by id")]


def cancel(filter: dict, **more) -> dict:
    return {"filter": Jsonb(filter), "dry_run": False, **more}


def test_a_hash_that_is_there_already_is_refused_also_to_who_comes_second(session):
    first, second = session(), session()
    first.begin()
    first.call("create_token", principal="rota_reader", hash=HASH)
    started = second.start("create_token", principal="rota_reader", hash=HASH)
    assert started.waits()
    first.commit()

    with sqlstate("RTC03"):
        started.answer()


def test_a_token_is_revoked_while_it_is_being_used(conn, session):
    (made,) = call(conn, "create_token", principal="rota_reader", hash=HASH)
    first, second = session(), session()
    first.begin()
    first.call("authenticate_token", hash=HASH)

    started = second.start("revoke_token", token_id=made["token_id"])
    assert started.waits()
    first.commit()

    started.answer()
    assert call(conn, "authenticate_token", hash=HASH) == [{"authenticate_token": None}]


def test_a_bulk_waits_for_a_claim_and_asks_the_job_to_end(conn, session):
    enqueue(conn)
    first, second = session(), session()
    first.begin()
    first.call("claim_next_job")

    started = second.start("cancel_jobs", **cancel({"queue": "default"}))
    assert started.waits()
    first.commit()

    assert started.answer()[0]["changed"] == 1
    assert states(conn) == ["RUNNING"]


def test_a_bulk_looks_again_at_what_it_has_waited_for(conn, session):
    """It asked for jobs that wait; what runs by now is none."""
    enqueue(conn)
    first, second = session(), session()
    first.begin()
    first.call("claim_next_job")

    started = second.start("cancel_jobs", **cancel({"state": "SCHEDULED"}))
    assert started.waits()
    first.commit()

    assert started.answer()[0]["changed"] == 0
    cancelled = "select cancel_requested_at is not null from rota.jobs"
    assert conn.execute(cancelled).fetchall() == [(False,)]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_two_bulks_over_the_same_jobs_do_each_once_and_never_deadlock(conn, session, ending):
    for _ in range(50):
        enqueue(conn)
    first, second = session(), session()
    first.begin()
    (told,) = first.call("cancel_jobs", **cancel({"queue": "default"}, max_jobs=30))

    started = second.start("cancel_jobs", **cancel({"task": "t"}))
    assert started.waits()
    getattr(first, ending)()

    assert told["changed"] == 30
    assert started.answer()[0]["changed"] == (20 if ending == "commit" else 50)
    assert states(conn) == ["CANCELLED"] * 50


def test_bulks_and_batches_of_finishes_over_the_same_jobs_never_deadlock(conn, session):
    """The batch comes in the opposite order of ids; both lock in the order of ids."""
    for _ in range(20):
        enqueue(conn)
    held = call(conn, "claim_next_job", max_jobs=20)[::-1]
    first, second = session(), session()
    first.begin()
    first.call("cancel_jobs", **cancel({"state": "RUNNING"}))

    started = second.start(
        "finish_jobs", job_ids=[job["id"] for job in held], tokens=[job["token"] for job in held]
    )
    assert started.waits()
    first.commit()

    started.answer()
    assert states(conn) == ["CANCELLED"] * 20


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_two_bulk_retries_bring_each_job_back_once(conn, session, ending):
    for _ in range(10):
        failed(conn)
    first, second = session(), session()
    first.begin()
    first.call("retry_jobs", **cancel({"task": "t"}, max_jobs=6))

    started = second.start("retry_jobs", **cancel({"queue": "failing"}))
    assert started.waits()
    getattr(first, ending)()

    assert started.answer()[0]["changed"] == (4 if ending == "commit" else 10)
    assert states(conn) == ["SCHEDULED"] * 10


def test_a_bulk_retry_waits_for_who_takes_a_key_and_leaves_that_job(conn, session):
    failed(conn, unique_key="b")
    other = failed(conn, unique_key="a")
    first, second = session(), session()
    first.begin()
    first.call("enqueue_job", task="t", queue="failing", unique_key="b")

    started = second.start("retry_jobs", **cancel({"state": "FAILED"}))
    assert started.waits()
    first.commit()

    assert started.answer() == [{"matched": 2, "changed": 1, "more": False, "job_ids": [other]}]
    assert sorted(states(conn)) == ["FAILED", "SCHEDULED", "SCHEDULED"]


def test_bulks_that_bring_keys_back_in_any_order_never_deadlock(conn, session):
    """Retries take unique keys in their order, as enqueue_jobs does, not in that of the ids."""
    for key in ("b", "a"):
        failed(conn, unique_key=key)
    one: Session = session()
    one.begin()
    one.call("enqueue_job", task="t", queue="failing", unique_key="a")
    two: Session = session()

    started = two.start("retry_jobs", **cancel({"state": "FAILED"}))
    assert started.waits()
    made = one.call("enqueue_job", task="t", queue="failing", unique_key="b")
    assert made[0]["created"]  # not held by the bulk
    one.commit()

    assert started.answer()[0]["changed"] == 0
