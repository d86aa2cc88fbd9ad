"""What a worker is told that hands a job back a second time, since it never heard the answer."""

from datetime import timedelta

import pytest

from db.gateway import call
from tests.concurrency.sessions import sqlstate


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_repeated_release_gets_the_answer_of_the_first(conn, cancelled):
    call(conn, "enqueue_job", task="t")
    (claimed,) = call(conn, "claim_next_job")
    held = {"job_id": claimed["id"], "token": claimed["token"]}
    if cancelled:
        call(conn, "cancel_job", job_id=claimed["id"])

    (first,) = call(conn, "release_job", **held, delay=timedelta(hours=1))
    (second,) = call(conn, "release_job", **held, delay=timedelta(hours=1))

    assert first["state"] == ("CANCELLED" if cancelled else "SCHEDULED")
    assert second == first


def test_a_release_after_a_finish_is_refused(conn):
    call(conn, "enqueue_job", task="t")
    (claimed,) = call(conn, "claim_next_job")
    held = {"job_id": claimed["id"], "token": claimed["token"]}
    call(conn, "finish_job", **held)

    with sqlstate("RTC02"):
        call(conn, "release_job", **held)
