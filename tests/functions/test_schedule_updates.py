"""What becomes of a live schedule that is scheduled again under its name."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from db.gateway import call


def test_an_update_between_two_attempts_makes_no_attempt_twice(conn):
    schedule = {"task": "tick", "every": timedelta(hours=1), "name": "tick"}
    call(conn, "schedule_job", **schedule)
    (claimed,) = call(conn, "claim_next_job")
    call(
        conn,
        "finish_job",
        job_id=claimed["id"],
        token=claimed["token"],
        error="boom",
        retry_in=timedelta(0),
    )

    call(conn, "schedule_job", **schedule)

    (again,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=again["id"], token=again["token"])
    executions = conn.execute(
        "select outcome, (run, attempt) > (1, 1) from rota.executions order by run, attempt"
    ).fetchall()
    assert executions == [("FAILED", False), ("SUCCEEDED", True)]


def test_a_retry_that_waits_is_not_lost_when_the_update_allows_none(conn):
    schedule = {"task": "tick", "every": timedelta(hours=1), "name": "tick"}
    call(conn, "schedule_job", **schedule, max_retries=2)
    (claimed,) = call(conn, "claim_next_job")
    lease = {"job_id": claimed["id"], "token": claimed["token"]}
    call(conn, "finish_job", **lease, error="boom", retry_in=timedelta(0))

    call(conn, "schedule_job", **schedule, max_retries=0)

    (again,) = call(conn, "claim_next_job")
    assert again["attempt"] == 2
    lease = {"job_id": again["id"], "token": again["token"]}
    (told,) = call(conn, "finish_job", **lease, error="boom", retry_in=timedelta(0))
    assert told["run_at"] > again["scheduled_for"] + timedelta(minutes=59)


@pytest.mark.parametrize("timing", [{"every": timedelta(hours=1)}, {"cron": "0 4 * * *"}])
@pytest.mark.parametrize("paused", [False, True])
def test_an_end_before_the_start_that_is_kept_is_refused_by_name(conn, timing, paused):
    start = datetime(2035, 1, 1, tzinfo=UTC)
    call(conn, "schedule_job", task="t", name="s", starts_at=start, **timing)
    if paused:
        call(conn, "pause_schedule", name="s")

    with pytest.raises(psycopg.Error, match="ends_at must be later than starts_at") as caught:
        call(conn, "schedule_job", task="other", name="s", ends_at=start, **timing)

    assert caught.value.sqlstate == "RTV01"
    kept = conn.execute("select task, starts_at, ends_at from rota.schedule_status").fetchall()
    assert kept == [("t", start, None)]


def test_an_end_in_the_past_is_refused_by_name(conn):
    with pytest.raises(psycopg.Error, match="ends_at must be later than starts_at") as caught:
        call(
            conn,
            "schedule_job",
            task="t",
            every=timedelta(hours=1),
            ends_at=datetime.now(UTC) - timedelta(seconds=1),
        )

    assert caught.value.sqlstate == "RTV01"
