"""Who is spared a notification: NOTIFY makes commits wait for each other on the whole server."""

import pytest
from psycopg.types.json import Jsonb

from db.gateway import call


def resume_a_queue(conn):
    call(conn, "configure_queue", queue="elsewhere")
    call(conn, "pause_queue", queue="elsewhere")
    call(conn, "resume_queue", queue="elsewhere")


def retry_a_job(conn):
    (job,) = call(conn, "enqueue_job", task="t", queue="elsewhere")
    call(conn, "cancel_job", job_id=job["job_id"])
    call(conn, "retry_job", job_id=job["job_id"])


PRODUCERS = {
    "enqueue_job": lambda conn: call(conn, "enqueue_job", task="t"),
    "enqueue_job with a key": lambda conn: call(conn, "enqueue_job", task="t", unique_key="k"),
    "enqueue_jobs": lambda conn: call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}] * 3)),
    "resume_queue": resume_a_queue,
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
