"""How many jobs of one lane a claim takes, which of them, and how often."""

from datetime import UTC, datetime, timedelta

from db.gateway import call


def claimed_tasks(conn, **arguments):
    return [row["task"] for row in call(conn, "claim_next_job", **arguments)]


def test_a_claim_takes_as_many_jobs_of_a_lane_as_it_asks_for(conn):
    for number in range(5):
        call(conn, "enqueue_job", task=str(number))

    assert claimed_tasks(conn) == ["0"]
    assert claimed_tasks(conn, max_jobs=3) == ["1", "2", "3"]
    assert claimed_tasks(conn, max_jobs=3) == ["4"]


def test_a_job_that_came_later_and_is_due_longer_goes_first(conn):
    now = datetime.now(UTC)
    call(conn, "enqueue_job", task="young", run_at=now - timedelta(minutes=1))
    call(conn, "enqueue_job", task="old", run_at=now - timedelta(hours=1))

    assert claimed_tasks(conn) == ["old"]
    assert claimed_tasks(conn) == ["young"]


def test_a_job_that_runs_is_not_claimed_again(conn):
    call(conn, "enqueue_job", task="only")

    assert claimed_tasks(conn) == ["only"]
    assert claimed_tasks(conn, max_jobs=10) == []
