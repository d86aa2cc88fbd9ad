"""Jobs that wait for a worker with a handler for their task, and such a worker that starts."""

import threading
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.waiting import wait_until

LONG = timedelta(minutes=5)
SHORT = timedelta(seconds=1)


def enqueue(conn, number=1, **arguments):
    jobs = [{"task": "new", **arguments}] * number
    return [row["job_id"] for row in call(conn, "enqueue_jobs", jobs=Jsonb(jobs))]


def hand_back(conn, queues=("default",), delay=LONG, delay_if_known=SHORT, number=1000):
    """Claim all there is, have no handler for it, and return what the release said."""
    jobs = call(conn, "claim_next_job", queues=list(queues), max_jobs=number)
    return call(
        conn,
        "release_unhandled_jobs",
        job_ids=[job["id"] for job in jobs],
        tokens=[job["token"] for job in jobs],
        delay=delay,
        delay_if_known=delay_if_known,
        reason="no handler",
    )


def bring_forward(conn, queues=("default",), tasks=("new",), **more):
    arguments = {"queues": list(queues), "tasks": list(tasks), **more}
    return call(conn, "bring_forward_jobs", **arguments)[0]["bring_forward_jobs"]


def worker_that_knows(conn, silent_for=0, **columns):
    columns = {"worker": "w", "queues": ["default"], "tasks": ["old", "new"], **columns}
    conn.execute(
        "insert into rota.workers (started_at, last_seen_at, worker, queues, tasks, stopped_at)"
        " values (now(), clock_timestamp() - %(silent_for)s * interval '1 second',"
        " %(worker)s, %(queues)s, %(tasks)s, %(stopped_at)s)",
        {"stopped_at": None, "silent_for": silent_for, **columns},
    )


def due(conn):
    """Return the ids of the jobs that a claim would find now."""
    return {
        job_id
        for (job_id,) in conn.execute(
            "select id from rota.live_jobs where state = 'SCHEDULED' and run_at <= rota._now()"
        )
    }


def seconds_left(conn, job_id):
    row = conn.execute(
        "select extract(epoch from run_at - rota._now()) from rota.live_jobs where id = %s",
        [job_id],
    ).fetchone()
    return float(row[0])


def test_they_are_handed_back_uncharged_with_the_reason(conn):
    ids = enqueue(conn, 3)

    rows = hand_back(conn)

    assert [(row["job_id"], row["outcome"]) for row in rows] == [(i, "RELEASED") for i in ids]
    assert due(conn) == set()
    assert conn.execute(
        "select distinct state, attempt, last_error from rota.live_jobs"
    ).fetchall() == [("SCHEDULED", 0, "no handler")]


def test_a_worker_that_starts_makes_them_due_at_once(conn):
    ids = enqueue(conn, 12)
    hand_back(conn)

    assert bring_forward(conn) == 12

    assert due(conn) == set(ids)
    assert bring_forward(conn) == 0
    assert [job["id"] for job in call(conn, "claim_next_job", max_jobs=12)] == ids


def test_the_first_of_a_key_in_strict_order_comes_forward_though_others_wait_for_it(conn):
    call(conn, "configure_queue", queue="default", key_in_order=True)
    first, _ = enqueue(conn, 2, key="k")
    hand_back(conn)
    assert call(conn, "claim_next_job") == []

    assert bring_forward(conn) == 1

    assert [job["id"] for job in call(conn, "claim_next_job")] == [first]


def test_only_those_of_its_queues_and_tasks_come_forward(conn):
    (ours,) = enqueue(conn)
    enqueue(conn, queue="mail")
    enqueue(conn, task="strange")
    hand_back(conn, ["default", "mail"])

    assert bring_forward(conn, ["default", "other"], ["new", "more"]) == 1

    assert due(conn) == {ours}


def fail(conn):
    (job,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=job["id"], token=job["token"], error="no", retry_in=LONG)


def release(conn):
    (job,) = call(conn, "claim_next_job")
    call(conn, "release_job", job_id=job["id"], token=job["token"], delay=LONG)


@pytest.mark.parametrize("end", [fail, release])
@pytest.mark.parametrize("before", [True, False], ids=["handed back before", "never handed back"])
def test_a_retry_and_a_release_by_a_handler_stay_where_they_are(conn, clock, end, before):
    enqueue(conn)
    if before:
        hand_back(conn)
        clock.advance(LONG + SHORT)
    end(conn)

    assert bring_forward(conn) == 0

    assert due(conn) == set()


def test_a_job_for_later_stays_where_it_is(conn):
    conn.execute("select rota.enqueue_job('new', run_at => now() + interval '1 hour')")
    conn.execute("select rota.schedule_job('new', every => '1 day', starts_at => now() + '1 hour')")

    assert bring_forward(conn) == 0
    assert due(conn) == set()


def test_a_schedule_that_is_paused_meanwhile_stays_paused(conn):
    call(conn, "schedule_job", task="new", every=LONG, name="s")
    call(conn, "trigger_schedule", name="s")
    hand_back(conn)
    call(conn, "pause_schedule", name="s")

    assert bring_forward(conn) == 0


def test_a_slot_of_a_schedule_is_not_late_by_having_waited(conn, clock):
    call(conn, "schedule_job", task="new", every=LONG * 20, misfire="skip")
    clock.advance(LONG * 20)
    hand_back(conn)
    clock.advance(LONG - SHORT)

    assert bring_forward(conn) == 1

    assert len(call(conn, "claim_next_job")) == 1


@pytest.mark.parametrize(
    ("worker", "seconds"),
    [
        ({}, 1),
        ({"queues": ["mail"]}, 300),
        ({"tasks": ["old"]}, 300),
        ({"tasks": None}, 300),
        ({"silent_for": 120}, 300),
        ({"stopped_at": "now"}, 300),
    ],
    ids=["knows", "other queue", "other task", "does not say", "dead", "stopped"],
)
def test_the_wait_is_short_while_a_live_worker_has_a_handler(conn, worker, seconds):
    worker_that_knows(conn, **worker)
    (job_id,) = enqueue(conn)

    hand_back(conn)

    assert seconds - 5 < seconds_left(conn, job_id) <= seconds


def test_one_call_hands_back_known_and_unknown_tasks(conn):
    worker_that_knows(conn)
    (known,) = enqueue(conn)
    (unknown,) = enqueue(conn, task="strange")

    hand_back(conn)

    assert seconds_left(conn, known) <= 1 < 290 < seconds_left(conn, unknown)
    assert bring_forward(conn, tasks=["strange"]) == 1


def test_a_repeated_hand_back_gets_the_same_answer_and_a_late_one_is_told_so(conn):
    enqueue(conn)
    (job,) = call(conn, "claim_next_job")
    pairs = {"job_ids": [job["id"]] * 2, "tokens": [job["token"], uuid4()]}

    first, second = (call(conn, "release_unhandled_jobs", **pairs) for _ in range(2))

    assert [row["outcome"] for row in first] == ["RELEASED", "LEASE_LOST"]
    assert second == first


def test_a_job_to_be_cancelled_is_cancelled_and_not_handed_back(conn):
    (job_id,) = enqueue(conn)
    (job,) = call(conn, "claim_next_job")
    call(conn, "cancel_job", job_id=job_id)

    rows = call(conn, "release_unhandled_jobs", job_ids=[job_id], tokens=[job["token"]])

    assert rows == [{"job_id": job_id, "outcome": "CANCELLED"}]
    assert bring_forward(conn) == 0


def test_a_call_brings_forward_as_many_as_it_was_asked_for_the_first_first(conn):
    ids = enqueue(conn, 5)
    hand_back(conn)

    assert bring_forward(conn, max_jobs=2) == 2
    assert due(conn) == set(ids[:2])
    assert bring_forward(conn, max_jobs=3) == 3
    assert bring_forward(conn, max_jobs=3) == 0


def test_a_row_that_somebody_has_locked_is_passed_by_and_comes_the_next_time(conn, connect):
    ids = enqueue(conn, 2)
    hand_back(conn)
    other = connect(autocommit=False)
    other.execute("select from rota.live_jobs where id = %s for update", [ids[0]])
    conn.execute("set lock_timeout = '2s'")

    assert bring_forward(conn) == 1
    other.rollback()

    assert bring_forward(conn) == 1


def test_a_hand_back_that_meets_a_finish_of_the_same_job_waits_and_then_is_late(conn, connect):
    (job_id,) = enqueue(conn)
    (job,) = call(conn, "claim_next_job")
    held = {"job_id": job_id, "token": job["token"]}
    other = connect(autocommit=False)
    call(other, "finish_job", **held)
    pid = conn.info.backend_pid

    def commit_when_it_waits():
        with connect() as watcher:
            wait_until(
                lambda: (
                    watcher.execute(
                        "select wait_event_type from pg_stat_activity where pid = %s", [pid]
                    ).fetchone()
                    == ("Lock",)
                )
            )
        other.commit()

    thread = threading.Thread(target=commit_when_it_waits)
    thread.start()
    rows = call(conn, "release_unhandled_jobs", job_ids=[job_id], tokens=[job["token"]])
    thread.join()

    assert rows == [{"job_id": job_id, "outcome": "LEASE_LOST"}]


def test_marks_of_what_has_passed_are_removed(conn, clock):
    enqueue(conn, 2)
    enqueue(conn, task="strange")
    hand_back(conn)
    clock.advance(LONG + SHORT)
    marks = "select count(*) from rota.unhandled_jobs"
    assert conn.execute(marks).fetchone() == (3,)

    bring_forward(conn)
    assert conn.execute(marks).fetchone() == (1,)
    call(conn, "maintain")

    assert conn.execute(marks).fetchone() == (0,)


@pytest.mark.leaves_nothing
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("release_unhandled_jobs", {"job_ids": [1], "tokens": []}),
        ("release_unhandled_jobs", {"job_ids": [], "tokens": [], "delay": -LONG}),
        ("release_unhandled_jobs", {"job_ids": [], "tokens": [], "delay_if_known": -LONG}),
        ("bring_forward_jobs", {"queues": None, "tasks": []}),
        ("bring_forward_jobs", {"queues": [], "tasks": None}),
        ("bring_forward_jobs", {"queues": [], "tasks": [], "max_jobs": 0}),
        ("bring_forward_jobs", {"queues": [], "tasks": [], "max_jobs": 10_001}),
    ],
)
def test_arguments_that_make_no_sense_are_refused(conn, function, arguments):
    with pytest.raises(psycopg.Error) as caught:
        call(conn, function, **arguments)

    assert caught.value.sqlstate == "RTV01"
