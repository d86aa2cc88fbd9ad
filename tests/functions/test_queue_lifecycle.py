"""Queues come with their first job or by configuring them, have names, and can be forgotten."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from db.gateway import call

UNSPELLABLE = ["a,b", "mail:2", "mail.*", " lead", "trail ", ","]


def status(conn, queue):
    rows = conn.execute("select * from rota.queue_status where queue = %s", [queue])
    return rows.fetchone()


def settings(conn, queue):
    rows = conn.execute(
        """
        select max_retries, backoff_base, backoff_cap, timeout
        from rota.queue_status
        where queue = %s
        """,
        [queue],
    )
    return rows.fetchone()


def refused(conn, function, **arguments):
    """Return the SQLSTATE with which a call is refused."""
    with pytest.raises(psycopg.Error) as caught:
        call(conn, function, **arguments)
    return caught.value.sqlstate


def old_job(conn, queue):
    """Add a job as it could be added while any name was allowed."""
    conn.execute("insert into rota.lanes (queue, priority) values (%s, 0)", [queue])
    return conn.execute(
        """
        insert into rota.live_jobs (
            task, payload, queue, priority, run_at, scheduled_for, max_retries, created_at
        )
        values ('t', '{}', %s, 0, now(), now(), 0, now())
        returning id
        """,
        [queue],
    ).fetchone()[0]


@pytest.mark.parametrize("function", ["pause_queue", "resume_queue", "delete_queue"])
def test_a_name_that_nobody_uses_is_no_queue(conn, function):
    assert refused(conn, function, queue="defualt") == "RTN03"

    assert status(conn, "defualt") is None


def test_a_queue_may_be_configured_and_paused_before_its_first_job(conn):
    call(conn, "configure_queue", queue="mail")
    call(conn, "pause_queue", queue="mail")

    call(conn, "enqueue_job", task="t", queue="mail")

    assert call(conn, "claim_next_job", queues=["mail"]) == []


@pytest.mark.parametrize("queue", UNSPELLABLE)
def test_a_name_that_no_command_line_can_spell_is_refused(conn, queue):
    jobs = Jsonb([{"task": "t", "queue": queue}])

    assert refused(conn, "enqueue_job", task="t", queue=queue) == "RTV01"
    assert refused(conn, "enqueue_jobs", jobs=jobs) == "RTV01"
    assert refused(conn, "schedule_job", task="t", every=timedelta(1), queue=queue) == "RTV01"
    assert refused(conn, "configure_queue", queue=queue, max_retries=1) == "RTV01"
    assert refused(conn, "pause_queue", queue=queue) == "RTV01"


@pytest.mark.parametrize("queue", ["mail-2", "a b", "a/b", "größer", "50%", "a.b"])
def test_other_names_are_taken(conn, queue):
    call(conn, "enqueue_job", task="t", queue=queue)

    assert len(call(conn, "claim_next_job", queues=[queue])) == 1


def test_jobs_in_a_queue_of_an_old_name_run_and_are_steered_as_ever(conn):
    job_id = old_job(conn, "a,b")

    call(conn, "pause_queue", queue="a,b")
    assert call(conn, "claim_next_job", queues=["a,b"]) == []
    call(conn, "configure_queue", queue="a,b", max_retries=7)
    call(conn, "resume_queue", queue="a,b")
    [held] = call(conn, "claim_next_job", queues=["a,b"])
    call(conn, "finish_job", job_id=job_id, token=held["token"], error="x")
    call(conn, "retry_job", job_id=job_id)
    [held] = call(conn, "claim_next_job", queues=["a,b"])
    call(conn, "finish_job", job_id=job_id, token=held["token"])
    call(conn, "delete_queue", queue="a,b")

    assert status(conn, "a,b") is None


def test_what_is_named_is_unset_and_the_rest_stays(conn):
    second = timedelta(seconds=1)
    call(
        conn,
        "configure_queue",
        queue="mail",
        max_retries=7,
        backoff_base=second,
        backoff_cap=2 * second,
        timeout=3 * second,
    )

    call(conn, "configure_queue", queue="mail", unset=["timeout"])
    assert settings(conn, "mail") == (7, second, 2 * second, None)
    call(conn, "configure_queue", queue="mail", max_retries=8, unset=["backoff_base"])
    assert settings(conn, "mail") == (8, None, 2 * second, None)
    call(conn, "configure_queue", queue="mail", unset=["max_retries", "backoff_cap"])
    assert settings(conn, "mail") == (None,) * 4


@pytest.mark.parametrize("unset", [["tiemout"], ["name"], ["paused_at"], [None], ["timeout", ""]])
def test_what_is_no_setting_cannot_be_unset(conn, unset):
    call(conn, "configure_queue", queue="mail", timeout=timedelta(seconds=1))

    assert refused(conn, "configure_queue", queue="mail", unset=unset) == "RTV01"

    assert settings(conn, "mail")[3] == timedelta(seconds=1)


def test_a_setting_cannot_be_given_and_unset_at_once(conn):
    with pytest.raises(psycopg.Error, match="timeout is both given and unset") as caught:
        call(conn, "configure_queue", queue="q", timeout=timedelta(1), unset=["timeout"])

    assert caught.value.sqlstate == "RTV01"


def test_a_deleted_queue_is_shown_no_more_and_begins_anew(conn):
    call(conn, "configure_queue", queue="mail", max_retries=0)
    call(conn, "pause_queue", queue="mail")
    [job] = call(conn, "enqueue_job", task="t", queue="mail", priority=5)
    call(conn, "cancel_job", job_id=job["job_id"])

    call(conn, "delete_queue", queue="mail")

    assert status(conn, "mail") is None
    assert refused(conn, "delete_queue", queue="mail") == "RTN03"
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t", "queue": "mail", "priority": 5}]))
    assert status(conn, "mail") is not None
    [held] = call(conn, "claim_next_job", queues=["mail"])
    assert held["max_retries"] == 3
    call(conn, "finish_job", job_id=held["id"], token=held["token"])
    for _ in range(2):
        call(conn, "maintain")
        assert status(conn, "mail") is not None


@pytest.mark.parametrize("when", ["now", "later", "running"])
def test_a_queue_with_live_jobs_is_not_deleted(conn, when):
    call(conn, "configure_queue", queue="mail", max_retries=9)
    run_at = datetime.now(UTC) + timedelta(days=1) if when == "later" else None
    call(conn, "enqueue_job", task="t", queue="mail", run_at=run_at)
    if when == "running":
        call(conn, "claim_next_job", queues=["mail"])

    assert refused(conn, "delete_queue", queue="mail") == "RTC01"

    assert settings(conn, "mail")[0] == 9


@pytest.mark.parametrize("level", ["read committed", "repeatable read"])
def test_an_enqueue_that_saw_its_lane_before_the_deletion_loses_nothing(connect, level):
    conn, producer = connect(), connect(autocommit=False)
    [job] = call(conn, "enqueue_job", task="t", queue="mail")
    call(conn, "cancel_job", job_id=job["job_id"])
    producer.execute(f"set transaction isolation level {level}")
    producer.execute("select 1")
    if level == "read committed":
        call(producer, "enqueue_job", task="late", queue="mail")

    call(conn, "delete_queue", queue="mail")
    call(conn, "maintain")
    if level == "repeatable read":
        call(producer, "enqueue_job", task="late", queue="mail")
    producer.commit()

    assert status(conn, "mail") is not None
    [held] = call(conn, "claim_next_job", queues=["mail"])
    assert held["task"] == "late"


def test_deleting_and_configuring_take_turns(connect):
    conn, other = connect(autocommit=False), connect()
    call(conn, "configure_queue", queue="mail", max_retries=9)
    conn.commit()
    call(conn, "delete_queue", queue="mail")
    other.execute("set lock_timeout = '100ms'")

    with pytest.raises(psycopg.errors.LockNotAvailable):
        call(other, "configure_queue", queue="mail", timeout=timedelta(1))
    conn.commit()
    call(other, "configure_queue", queue="mail", timeout=timedelta(1))

    assert settings(conn, "mail") == (None, None, None, timedelta(1))
