"""What operators do to one job: cancel_job and retry_job."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.functions.views import job


def enqueue(conn, **arguments):
    return call(conn, "enqueue_job", **{"task": "work", **arguments})[0]["job_id"]


def claim(conn):
    (claimed,) = call(conn, "claim_next_job")
    return {"job_id": claimed["id"], "token": claimed["token"]}


def outcomes(conn, job_id):
    return conn.execute(
        "select run, attempt, outcome from rota.job_executions where job_id = %s"
        " order by finished_at",
        [job_id],
    ).fetchall()


def failed_job(conn, **arguments):
    job_id = enqueue(conn, max_retries=0, **arguments)
    call(conn, "finish_job", **claim(conn), error="boom")
    return job_id


def test_cancelling_a_scheduled_job_ends_it(conn):
    job_id = enqueue(conn)

    (told,) = call(conn, "cancel_job", job_id=job_id, reason="not needed")

    assert told == {"job_id": job_id, "state": "CANCELLED", "run_at": None}
    assert job(conn, job_id)["cancel_reason"] == "not needed"
    assert call(conn, "claim_next_job") == []
    assert outcomes(conn, job_id) == []


def test_cancelling_twice_says_the_same(conn):
    job_id = enqueue(conn)
    first = call(conn, "cancel_job", job_id=job_id)

    assert call(conn, "cancel_job", job_id=job_id) == first


@pytest.mark.parametrize(
    "ending",
    [{"error": "stopped"}, {}, {"result": Jsonb(1)}, {"error": "x", "retry": False}],
    ids=str,
)
def test_cancelling_a_running_job_asks_and_the_job_ends_when_its_attempt_does(conn, ending):
    job_id = enqueue(conn)
    held = claim(conn)

    (told,) = call(conn, "cancel_job", job_id=job_id, reason="enough")

    assert told["state"] == "RUNNING"
    assert call(conn, "heartbeat_job", **held)[0]["cancel_requested"] is True
    (batch,) = call(conn, "heartbeat_jobs", job_ids=[held["job_id"]], tokens=[held["token"]])
    assert batch["cancel_requested"] is True
    assert call(conn, "finish_job", **held, **ending)[0]["state"] == "CANCELLED"
    assert outcomes(conn, job_id) == [(1, 1, "CANCELLED")]
    assert job(conn, job_id)["cancel_reason"] == "enough"


def test_a_cancelled_job_whose_worker_died_ends_when_its_lease_does(conn, clock):
    job_id = enqueue(conn)
    claim(conn)
    call(conn, "cancel_job", job_id=job_id)
    clock.advance(timedelta(minutes=2))

    call(conn, "recover_jobs")

    assert job(conn, job_id)["state"] == "CANCELLED"
    assert outcomes(conn, job_id) == [(1, 1, "LOST")]


def test_a_cancelled_job_that_is_released_ends(conn):
    job_id = enqueue(conn)
    held = claim(conn)
    call(conn, "cancel_job", job_id=job_id)

    assert call(conn, "release_job", **held)[0]["state"] == "CANCELLED"


def test_cancelling_a_schedule_ends_it_and_frees_its_name(conn):
    (first,) = call(conn, "schedule_job", task="tick", every=timedelta(hours=1), name="tick")

    call(conn, "cancel_job", job_id=first["job_id"])
    (second,) = call(conn, "schedule_job", task="tick", every=timedelta(hours=1), name="tick")

    assert job(conn, first["job_id"])["state"] == "CANCELLED"
    assert second["created"] is True


def test_what_has_ended_cannot_be_cancelled(conn):
    done = enqueue(conn)
    call(conn, "finish_job", **claim(conn))

    for job_id in (done, failed_job(conn)):
        with pytest.raises(psycopg.Error, match="already") as caught:
            call(conn, "cancel_job", job_id=job_id)
        assert caught.value.sqlstate == "RTC01"


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("function", ["cancel_job", "retry_job"])
@pytest.mark.parametrize("job_id", [999, -1, 2**63 - 1, None])
def test_a_job_that_is_not_there_is_not_found(conn, function, job_id):
    with pytest.raises(psycopg.Error, match="no job") as caught:
        call(conn, function, job_id=job_id)

    assert caught.value.sqlstate == "RTN01"


def test_a_reason_of_a_novel_s_length_is_refused(conn):
    job_id = enqueue(conn)

    with pytest.raises(psycopg.Error, match="reason") as caught:
        call(conn, "cancel_job", job_id=job_id, reason="x" * 1001)

    assert caught.value.sqlstate == "RTV01"
    assert job(conn, job_id)["state"] == "SCHEDULED"


def test_a_retried_job_keeps_its_id_and_history_and_gets_all_its_attempts(conn, clock):
    job_id = failed_job(conn, payload=Jsonb({"n": 1}), priority=3)

    (told,) = call(conn, "retry_job", job_id=job_id)

    assert (told["job_id"], told["state"]) == (job_id, "SCHEDULED")
    (claimed,) = call(conn, "claim_next_job")
    assert (claimed["id"], claimed["attempt"], claimed["priority"]) == (job_id, 1, 3)
    assert claimed["payload"] == {"n": 1}
    call(conn, "finish_job", job_id=job_id, token=claimed["token"])
    assert job(conn, job_id)["state"] == "COMPLETED"
    assert outcomes(conn, job_id) == [(1, 1, "FAILED"), (2, 1, "SUCCEEDED")]


def test_a_cancelled_job_can_be_retried(conn):
    job_id = enqueue(conn, run_at=datetime.now(UTC) + timedelta(days=1))
    call(conn, "cancel_job", job_id=job_id)

    call(conn, "retry_job", job_id=job_id)

    assert claim(conn)["job_id"] == job_id


def test_a_cancelled_schedule_comes_back_on_its_grid(conn):
    start = datetime.now(UTC) - timedelta(hours=5, minutes=20)
    (made,) = call(
        conn, "schedule_job", task="tick", every=timedelta(hours=1), name="t", starts_at=start
    )
    call(conn, "cancel_job", job_id=made["job_id"])

    (told,) = call(conn, "retry_job", job_id=made["job_id"])

    assert (told["run_at"] - start) % timedelta(hours=1) == timedelta(0)
    assert told["run_at"] > datetime.now(UTC)
    assert job(conn, made["job_id"])["name"] == "t"


def test_only_a_failed_or_cancelled_job_can_be_retried(conn):
    done = enqueue(conn)
    call(conn, "finish_job", **claim(conn))
    running = enqueue(conn)
    claim(conn)
    waiting = enqueue(conn)

    for job_id in (done, running, waiting):
        with pytest.raises(psycopg.Error, match="only a FAILED or CANCELLED") as caught:
            call(conn, "retry_job", job_id=job_id)
        assert caught.value.sqlstate == "RTC01"


def test_a_retry_does_not_take_a_key_that_another_job_holds(conn):
    job_id = failed_job(conn, unique_key="k")
    enqueue(conn, unique_key="k")

    with pytest.raises(psycopg.Error, match="unique_key") as caught:
        call(conn, "retry_job", job_id=job_id)

    assert caught.value.sqlstate == "RTC03"
    assert job(conn, job_id)["state"] == "FAILED"
