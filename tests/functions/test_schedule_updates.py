"""What becomes of a live schedule that is scheduled again under its name."""

from datetime import timedelta

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
