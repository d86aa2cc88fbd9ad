"""Headers stay with a job and with a schedule, whatever becomes of them, and cost no one else."""

from datetime import UTC, datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call

HOUR = timedelta(hours=1)
START = datetime(2030, 1, 7, tzinfo=UTC)
HEADERS = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tenant": "a"}


def claimed(conn, **arguments):
    (job,) = call(conn, "claim_next_job", **arguments)
    return job["headers"]


def scheduled(conn, **arguments):
    arguments = {"every": HOUR, "headers": Jsonb(HEADERS), **arguments}
    call(conn, "schedule_job", task="tick", name="s", **arguments)


def actions(conn):
    return conn.execute(
        "select count(*) from rota.actions where function = 'schedule_job'"
    ).fetchone()[0]


def saved(conn, clock):
    scheduled(conn)


def triggered(conn, clock):
    scheduled(conn, starts_at=START + 999 * HOUR)
    call(conn, "trigger_schedule", name="s")


def resumed(conn, clock):
    scheduled(conn)
    call(conn, "pause_schedule", name="s")
    clock.advance(HOUR)
    call(conn, "resume_schedule", name="s")
    clock.advance(HOUR)


def missed(conn, clock):
    scheduled(conn)
    clock.advance(9 * HOUR)


def in_its_next_run(conn, clock):
    scheduled(conn)
    (job,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=job["id"], token=job["token"])
    clock.advance(HOUR)


def backfilled(conn, clock):
    scheduled(conn, starts_at=START)
    call(conn, "backfill_schedule", name="s", starts_at=START, ends_at=START + HOUR)


def retried_as_a_schedule(conn, clock):
    scheduled(conn)
    (job_id,) = conn.execute("select id from rota.jobs").fetchone()
    call(conn, "delete_schedule", name="s")
    call(conn, "retry_job", job_id=job_id)
    clock.advance(HOUR)


def ended(conn, number):
    """Jobs that were cancelled: of each the headers are in its finished row only."""
    made = [call(conn, "enqueue_job", task="t", headers=Jsonb(HEADERS)) for _ in range(number)]
    for (job,) in made:
        call(conn, "cancel_job", job_id=job["job_id"])
    assert (
        conn.execute("select headers from rota.finished_jobs").fetchall() == [(HEADERS,)] * number
    )
    return [job["job_id"] for (job,) in made]


def retried(conn, clock):
    call(conn, "retry_job", job_id=ended(conn, 1)[0])


def retried_in_bulk(conn, clock):
    call(conn, "retry_jobs", filter=Jsonb({"ids": ended(conn, 2)}), dry_run=False)


WAYS = [
    *(saved, triggered, resumed, missed, in_its_next_run, backfilled),
    *(retried_as_a_schedule, retried, retried_in_bulk),
]


@pytest.mark.parametrize("way", WAYS)
def test_headers_come_with_whatever_is_run(conn, clock, way):
    way(conn, clock)

    assert claimed(conn) == HEADERS


def test_a_schedule_that_is_saved_without_headers_has_none_and_that_is_a_change(conn):
    scheduled(conn, starts_at=START)
    scheduled(conn, starts_at=START)
    assert actions(conn) == 0

    scheduled(conn, starts_at=START, headers=Jsonb({}))
    scheduled(conn, starts_at=START, headers=None)

    assert actions(conn) == 1
    assert conn.execute("select headers from rota.schedule_status").fetchone() == (None,)


def test_headers_without_a_name_are_none(conn):
    jobs = Jsonb([{"task": "t", "headers": {}}, {"task": "t", "headers": {}, "unique_key": "k"}])
    call(conn, "enqueue_job", task="t", headers=Jsonb({}))
    call(conn, "enqueue_jobs", jobs=jobs)
    call(conn, "enqueue_many", task="t", payloads=Jsonb([1]), headers=Jsonb({}))
    scheduled(conn, headers=Jsonb({}))

    assert conn.execute("select headers from rota.live_jobs").fetchall() == [(None,)] * 5


def test_a_claim_counts_headers_among_the_bytes_that_it_may_take(conn):
    for _ in range(5):
        call(conn, "enqueue_job", task="t", headers=Jsonb({"a": "b" * 4000}))

    assert len(call(conn, "claim_next_job", max_jobs=5, max_bytes=8000)) == 2
    assert len(call(conn, "claim_next_job", max_jobs=5, max_bytes=1_000_000)) == 3


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ("x", "headers must be an object of texts, not of type string"),
        ({"a": "b" * 8184}, "headers must have at most 8192 bytes as JSON, not 8193"),
        (
            {"TraceParent": "x"},
            'headers: a name must have 1 to 100 characters of a-z, 0-9 and "-", "_" or ".", in'
            ' lower case, not "TraceParent"',
        ),
        ({"a": 1}, "headers: a must be a text, not of type number"),
        ({"a": "1\n2"}, "headers: a must not contain control characters"),
    ],
)
def test_what_is_wrong_with_headers_is_told(conn, headers, message):
    with pytest.raises(Exception) as caught:
        call(conn, "enqueue_job", task="t", headers=Jsonb(headers))

    assert (caught.value.sqlstate, caught.value.diag.message_primary) == ("RTV01", message)
