"""How many bytes of payload a claim takes."""

import os

import psycopg
import pytest
from psycopg.types.json import Jsonb

from db.gateway import call

LARGE = 100_000  # bytes


def enqueue(conn, task, size=0, repeated=None, **arguments):
    """Add a job with so many bytes of payload, which does not compress unless it repeats itself."""
    text = (repeated * size)[:size] if repeated else os.urandom(size // 2).hex()
    call(conn, "enqueue_job", task=task, payload=Jsonb({"text": text}), **arguments)


def claimed_tasks(conn, **arguments):
    return [row["task"] for row in call(conn, "claim_next_job", **arguments)]


def test_a_claim_stops_when_the_payloads_pass_its_limit(conn):
    for number in range(10):
        enqueue(conn, str(number), LARGE)

    assert claimed_tasks(conn, max_jobs=10, max_bytes=int(2.5 * LARGE)) == ["0", "1", "2"]
    assert claimed_tasks(conn, max_jobs=2, max_bytes=10 * LARGE) == ["3", "4"]
    assert claimed_tasks(conn, max_jobs=10) == ["5", "6", "7", "8", "9"]


def test_a_claim_takes_one_job_however_large_it_is(conn):
    for number in range(3):
        enqueue(conn, str(number), LARGE)

    assert claimed_tasks(conn, max_jobs=1, max_bytes=1) == ["0"]
    assert claimed_tasks(conn, max_jobs=10, max_bytes=1) == ["1"]


def test_small_payloads_are_claimed_as_if_there_were_no_limit(conn):
    for number in range(300):
        enqueue(conn, str(number))

    claimed = claimed_tasks(conn, max_jobs=200, max_bytes=LARGE)

    assert claimed == [str(number) for number in range(200)]


def test_what_counts_is_the_text_that_is_sent_not_how_it_is_stored(conn):
    for number in range(60):
        enqueue(conn, str(number), LARGE, repeated="again")
    stored = conn.execute("select max(pg_column_size(payload)) from rota.live_jobs").fetchone()[0]
    assert stored < LARGE / 20, "this was to be compressed"

    assert len(claimed_tasks(conn, max_jobs=60, max_bytes=5 * LARGE)) == 5
    assert len(claimed_tasks(conn, max_jobs=60, max_bytes=100 * LARGE)) == 55


def test_large_payloads_behind_small_ones_end_the_claim(conn):
    for _ in range(150):
        enqueue(conn, "small")
    for _ in range(10):
        enqueue(conn, "large", LARGE)

    claimed = claimed_tasks(conn, max_jobs=1000, max_bytes=3 * LARGE)

    assert claimed == ["small"] * 150 + ["large"] * 3


def test_the_limit_holds_for_all_queues_and_priorities_of_a_claim_together(conn):
    for queue in ("a", "b"):
        for priority in (0, 1):
            enqueue(conn, f"{queue}{priority}", LARGE, queue=queue, priority=priority)

    claimed = claimed_tasks(conn, queues=["a", "b"], max_jobs=10, max_bytes=int(1.5 * LARGE))

    assert sorted(claimed) == ["a1", "b1"]


def test_an_open_claim_of_few_large_jobs_hides_few_others(connect):
    conn, other = connect(autocommit=False), connect()
    for number in range(110):
        enqueue(other, str(number), LARGE)

    assert claimed_tasks(conn, max_jobs=110, max_bytes=3 * LARGE) == ["0", "1", "2"]

    assert claimed_tasks(other, max_jobs=3) == ["100", "101", "102"]
    conn.commit()
    assert claimed_tasks(other, max_jobs=1) == ["3"]


@pytest.mark.parametrize("max_bytes", [0, -1])
def test_a_limit_of_no_bytes_is_refused(conn, max_bytes):
    with pytest.raises(psycopg.Error, match="max_bytes") as caught:
        call(conn, "claim_next_job", max_bytes=max_bytes)

    assert caught.value.sqlstate == "RTV01"
