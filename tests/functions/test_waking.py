"""Who is spared a notification: NOTIFY makes commits wait for each other on the whole server."""

from datetime import UTC, datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from db.gateway import call


def retry_a_job(conn):
    (job,) = call(conn, "enqueue_job", task="t", queue="elsewhere")
    call(conn, "cancel_job", job_id=job["job_id"])
    call(conn, "retry_job", job_id=job["job_id"])


PRODUCERS = {
    "enqueue_job": lambda conn: call(conn, "enqueue_job", task="t"),
    "enqueue_job with a key": lambda conn: call(conn, "enqueue_job", task="t", unique_key="k"),
    "enqueue_jobs": lambda conn: call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}] * 3)),
    "resume_queue": lambda conn: call(conn, "resume_queue", queue="default"),
    "retry_job": retry_a_job,
}


@pytest.mark.parametrize("produce", PRODUCERS.values(), ids=PRODUCERS)
def test_nobody_is_notified_while_nobody_sleeps(connect, produce):
    producer, listener = connect(), connect()
    listener.execute("listen rota_jobs")

    produce(producer)
    producer.execute("notify rota_jobs, 'the end'")

    heard = next(iter(listener.notifies(timeout=10, stop_after=1)))
    assert heard.payload == "the end"


def cancelled(conn, queue):
    (job,) = call(conn, "enqueue_job", task="t", queue=queue)
    call(conn, "cancel_job", job_id=job["job_id"])
    return {"job_id": job["job_id"]}


def scheduled(conn, queue, *actions, **options):
    tick = {"task": "t", "every": timedelta(hours=1), "name": "tick", "queue": queue, **options}
    call(conn, "schedule_job", **tick)
    for action in actions:
        call(conn, action, name="tick")
    return {"name": "tick"}


def paused(conn, queue):
    """A schedule with a retry that waits: a resume makes it due."""
    scheduled(conn, queue)
    (run,) = call(conn, "claim_next_job", queues=[queue])
    lease = {"job_id": run["id"], "token": run["token"]}
    call(conn, "finish_job", **lease, error="boom", retry_in=timedelta(minutes=1))
    call(conn, "pause_schedule", name="tick")
    return {"name": "tick"}


AHEAD = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
BEHIND = AHEAD - timedelta(days=2)
KEYED = [{"task": "t", "queue": "mail", "unique_key": "k"}]
UNKEYED = [{"task": "t", "queue": "mail"}]
# What makes a job due in the queue "mail": the function, its preparation, its arguments.
MAKERS = {
    "enqueue_job": (None, {"task": "t", "queue": "mail"}),
    "enqueue_job with a key": (None, {"task": "t", "queue": "mail", "unique_key": "k"}),
    "enqueue_job in the past": (None, {"task": "t", "queue": "mail", "run_at": BEHIND}),
    "enqueue_jobs": (None, {"jobs": Jsonb(UNKEYED)}),
    "enqueue_jobs with keys": (None, {"jobs": Jsonb(KEYED)}),
    "enqueue_jobs, some due": (
        None,
        {"jobs": Jsonb([{**UNKEYED[0], "run_at": AHEAD.isoformat()}, *UNKEYED])},
    ),
    "schedule_job": (None, {"task": "t", "every": timedelta(hours=1), "queue": "mail"}),
    "retry_job": (cancelled, {}),
    "resume_queue": (
        lambda conn, queue: call(conn, "pause_queue", queue=queue) and None,
        {"queue": "mail"},
    ),
    "resume_schedule": (paused, {}),
    "trigger_schedule": (lambda conn, queue: scheduled(conn, queue, starts_at=AHEAD), {}),
    "backfill_schedule": (
        lambda conn, queue: scheduled(conn, queue, starts_at=BEHIND),
        {"starts_at": BEHIND, "ends_at": BEHIND + timedelta(hours=1)},
    ),
}
# The same, where nothing is due for it: nobody needs to wake.
IDLE = {
    "enqueue_job ahead": (None, {"task": "t", "queue": "mail", "run_at": AHEAD}),
    "enqueue_job with a key that is held": (
        lambda conn, queue: call(conn, "enqueue_job", **KEYED[0]) and None,
        KEYED[0],
    ),
    "enqueue_jobs with a key that is held": (
        lambda conn, queue: call(conn, "enqueue_job", **KEYED[0]) and None,
        {"jobs": Jsonb(KEYED)},
    ),
    "enqueue_jobs ahead": (None, {"jobs": Jsonb([{**UNKEYED[0], "run_at": AHEAD.isoformat()}])}),
    "schedule_job ahead": (
        None,
        {"task": "t", "every": timedelta(hours=1), "queue": "mail", "starts_at": AHEAD},
    ),
}


def heard_by_sleepers(connect, how, table):
    """Return the queues whose sleepers were notified."""
    conn, sleeper = connect(), connect()
    prepare, arguments = table[how]
    prepared = (prepare(conn, "mail") if prepare else None) or {}
    sleeper.execute("listen rota_jobs")
    call(sleeper, "begin_sleep", queues=["mail", "other"])

    call(conn, how.split()[0].rstrip(","), **prepared, **arguments)

    conn.execute("notify rota_jobs, 'the end'")
    heard = []
    for notice in sleeper.notifies(timeout=10):
        if notice.payload == "the end":
            return heard
        heard.append(notice.payload)
    raise AssertionError(heard)


@pytest.mark.parametrize("how", MAKERS)
def test_a_sleeper_hears_of_all_that_makes_a_job_due(connect, how):
    assert heard_by_sleepers(connect, how, MAKERS) == ["mail"]


@pytest.mark.parametrize("how", IDLE)
def test_a_sleeper_is_not_woken_for_what_is_not_due(connect, how):
    assert heard_by_sleepers(connect, how, IDLE) == []
