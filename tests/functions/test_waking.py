"""Who is told of a job, and who is spared: NOTIFY makes commits wait for each other on a server."""

from datetime import UTC, datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.calls import enqueue, held, workflow

MANY = [f"queue {number}" for number in range(3000)]
A_MINUTE = timedelta(minutes=1)


def resume_a_queue(conn):
    call(conn, "configure_queue", queue="elsewhere")
    call(conn, "pause_queue", queue="elsewhere")
    call(conn, "resume_queue", queue="elsewhere")


def retry_a_job(conn):
    (job,) = call(conn, "enqueue_job", task="t", queue="elsewhere")
    call(conn, "cancel_job", job_id=job["job_id"])
    call(conn, "retry_job", job_id=job["job_id"])


def save_a_schedule_again(conn):
    for queue in ("default", "mail"):
        call(conn, "schedule_job", task="t", every=A_MINUTE, name="s", queue=queue)


def release_a_child(conn):
    workflow(conn, {"queue": "elsewhere"}, {"depends_on": "previous"})
    call(conn, "finish_job", **held(conn, queues=["elsewhere"]))


def wake_by_an_event(conn):
    enqueue(conn, queue="elsewhere")
    pair = held(conn, queues=["elsewhere"])
    call(conn, "await_event", **pair, step="s", event="e", timeout=timedelta(hours=1))
    call(conn, "emit_event", event="e")


def finish_with_next(conn):
    enqueue(conn, queue="elsewhere")
    pair = held(conn, queues=["elsewhere"])
    call(conn, "finish_job", **pair, next=Jsonb([{"task": "t"}]))


OF_WORKFLOWS = {
    "enqueue_workflow": lambda conn: workflow(conn, {}),
    "a finish that releases a child": release_a_child,
    "finish_job with next": finish_with_next,
}
PRODUCERS = {
    **OF_WORKFLOWS,
    "emit_event": wake_by_an_event,
    "enqueue_job": lambda conn: call(conn, "enqueue_job", task="t"),
    "enqueue_job with a key": lambda conn: call(conn, "enqueue_job", task="t", unique_key="k"),
    "enqueue_job for later": lambda conn: call(conn, "enqueue_job", task="t", run_at=after(3600)),
    "enqueue_jobs": lambda conn: call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}] * 3)),
    "schedule_job": save_a_schedule_again,
    "resume_queue": resume_a_queue,
    "retry_job": retry_a_job,
}


def after(seconds):
    return datetime.now(UTC) + timedelta(seconds=seconds)


def notified(conn, listener):
    """Return the notifications that have been sent so far."""
    conn.execute("notify rota_jobs, 'the end'")
    heard = []
    for notice in listener.notifies(timeout=10):
        if notice.payload == "the end":
            return heard
        heard.append(notice.payload)
    raise AssertionError(heard)


def advisory_locks(conn, of):
    return conn.execute(
        "select count(*) from pg_locks where locktype = 'advisory' and pid = %s",
        [of.info.backend_pid],
    ).fetchone()[0]


@pytest.fixture
def sleeper(connect):
    """A session that listens; ``call(sleeper, "begin_sleep", …)`` sends it to sleep."""
    session = connect()
    session.execute("listen rota_jobs")
    return session


@pytest.mark.parametrize("produce", PRODUCERS.values(), ids=PRODUCERS)
def test_nobody_is_notified_while_nobody_sleeps(conn, sleeper, produce):
    produce(conn)

    assert notified(conn, sleeper) == []


@pytest.mark.parametrize("produce", PRODUCERS.values(), ids=PRODUCERS)
def test_nobody_is_notified_who_serves_other_queues(conn, sleeper, produce):
    call(sleeper, "begin_sleep", queues=["other", "another"])

    produce(conn)

    assert notified(conn, sleeper) == []


@pytest.mark.parametrize("produce", OF_WORKFLOWS.values(), ids=OF_WORKFLOWS)
def test_a_sleeper_is_notified_of_what_a_workflow_adds_or_releases(conn, sleeper, produce):
    call(sleeper, "begin_sleep", queues=["default"])

    produce(conn)

    assert len(notified(conn, sleeper)) == 1


def test_a_sleeper_is_notified_of_who_is_woken_by_an_event(conn, sleeper):
    enqueue(conn)
    pair = held(conn)
    call(conn, "await_event", **pair, step="s", event="e", timeout=timedelta(hours=1))
    call(sleeper, "begin_sleep", queues=["default"])

    call(conn, "emit_event", event="e")

    assert len(notified(conn, sleeper)) == 1


def test_a_session_that_serves_many_queues_holds_few_locks(conn, sleeper):
    assert call(sleeper, "begin_sleep", queues=MANY) == [{"begin_sleep": True}]

    assert 1 <= advisory_locks(conn, sleeper) <= 20

    call(sleeper, "end_sleep", queues=MANY)
    assert advisory_locks(conn, sleeper) == 0


def test_sessions_that_serve_many_queues_leave_locks_for_others(connect):
    for _ in range(8):
        call(connect(), "begin_sleep", queues=[*MANY, *(f"more {name}" for name in MANY)])

    assert call(connect(), "enqueue_job", task="t", queue="queue 7")[0]["created"]


@pytest.mark.parametrize("number", [1, 16, 17, 3000])
def test_a_sleeper_is_notified_of_each_of_its_queues(conn, sleeper, number):
    call(sleeper, "begin_sleep", queues=MANY[:number])

    call(conn, "enqueue_job", task="t", queue=MANY[0])
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t", "queue": MANY[number - 1]}]))

    assert notified(conn, sleeper) == [MANY[0], MANY[number - 1]]
    call(sleeper, "end_sleep", queues=MANY[:number])
    call(conn, "enqueue_job", task="t", queue=MANY[0])
    assert notified(conn, sleeper) == []


def test_a_sleeper_of_the_release_before_is_notified_still(conn, sleeper):
    sleeper.execute("select pg_advisory_lock_shared(1919906913, hashtext('mail'))")

    call(conn, "enqueue_job", task="t", queue="mail")

    assert notified(conn, sleeper) == ["mail"]


@pytest.mark.parametrize("held", ["a", "mail", "z"])
def test_falling_asleep_does_not_wait_for_a_lock_that_an_outsider_holds(
    conn, connect, sleeper, held
):
    outsider = connect()
    outsider.execute("select pg_advisory_lock(rota._wake_class(), hashtext(%s))", [held])
    sleeper.execute("set lock_timeout = '1s'")

    assert call(sleeper, "begin_sleep", queues=["a", "mail", "z"]) == [{"begin_sleep": False}]

    assert advisory_locks(conn, sleeper) == 0
    assert call(conn, "enqueue_job", task="t", queue=held)[0]["created"]
    outsider.execute("select pg_advisory_unlock_all()")
    assert call(sleeper, "begin_sleep", queues=["a", "mail", "z"]) == [{"begin_sleep": True}]


SOON = {
    "enqueue_job": lambda conn, at: call(conn, "enqueue_job", task="t", run_at=at),
    "enqueue_jobs": lambda conn, at: call(
        conn,
        "enqueue_jobs",
        jobs=Jsonb([{"task": "t", "run_at": t.isoformat()} for t in (at + A_MINUTE, at)]),
    ),
    "enqueue_many": lambda conn, at: call(
        conn, "enqueue_many", task="t", payloads=Jsonb([1, 2]), run_at=at
    ),
    "schedule_job": lambda conn, at: call(
        conn, "schedule_job", task="t", every=A_MINUTE * 60, starts_at=at
    ),
    "schedule_job again": lambda conn, at: [
        call(conn, "schedule_job", task="t", every=A_MINUTE * 60, starts_at=first, name="s")
        for first in (at + 600 * A_MINUTE, at)
    ],
}


@pytest.mark.parametrize("produce", SOON.values(), ids=SOON)
@pytest.mark.parametrize(
    ("longest", "seconds", "told"),
    [
        (timedelta(seconds=1), 0.9, True),
        (timedelta(seconds=1), 60, False),  # it looks before
        (timedelta(seconds=90), 60, True),
    ],
)
def test_a_sleeper_is_told_of_a_job_that_is_due_before_it_would_look(
    conn, sleeper, produce, longest, seconds, told
):
    call(sleeper, "begin_sleep", queues=["default"], longest=longest)

    produce(conn, after(seconds))

    assert set(notified(conn, sleeper)) == ({"default"} if told else set())


def test_a_schedule_that_moves_to_another_queue_is_made_known_there(conn, sleeper):
    call(conn, "schedule_job", task="t", every=A_MINUTE, name="s")
    call(conn, "trigger_schedule", name="s")
    call(sleeper, "begin_sleep", queues=["mail"])

    call(conn, "schedule_job", task="t", every=A_MINUTE, name="s", queue="mail")

    assert notified(conn, sleeper) == ["mail"]


def finish(conn, error="no", **how):
    (job,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=job["id"], token=job["token"], error=error, **how)


def release(conn, **how):
    (job,) = call(conn, "claim_next_job")
    call(conn, "release_job", job_id=job["id"], token=job["token"], **how)


A_BLINK = timedelta(milliseconds=100)
ENDINGS = {
    "a retry": (lambda conn: finish(conn, retry_in=A_BLINK), True),
    "a retry by the queue's backoff": (lambda conn: finish(conn), True),
    "a later retry": (lambda conn: finish(conn, retry_in=A_MINUTE), False),
    "a release": (lambda conn: release(conn), True),
    "a later release": (lambda conn: release(conn, delay=A_MINUTE), False),
    "the end": (lambda conn: finish(conn, retry=False), False),
    "success": (lambda conn: finish(conn, error=None), False),
}


@pytest.mark.parametrize(("end", "told"), ENDINGS.values(), ids=ENDINGS)
def test_a_sleeper_is_told_of_a_job_that_comes_back(conn, sleeper, end, told):
    call(conn, "configure_queue", queue="default", backoff_base=A_BLINK)
    call(conn, "enqueue_job", task="t")
    call(sleeper, "begin_sleep", queues=["default"])

    end(conn)

    assert notified(conn, sleeper) == (["default"] if told else [])


def test_a_sleeper_is_told_of_the_next_run_of_a_schedule(conn, sleeper):
    call(conn, "schedule_job", task="t", every=timedelta(seconds=1), fixed_delay=True)
    call(sleeper, "begin_sleep", queues=["default"])

    finish(conn, error=None)

    assert notified(conn, sleeper) == ["default"]


def test_a_sleeper_is_told_of_lost_jobs_that_are_taken_back_once_a_queue(conn, sleeper, clock):
    call(conn, "configure_queue", queue="default", backoff_base=A_BLINK)
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}] * 3))
    call(conn, "claim_next_job", max_jobs=3)
    clock.advance(A_MINUTE * 10)
    call(sleeper, "begin_sleep", queues=["default"])

    assert call(conn, "recover_jobs") == [{"recover_jobs": 3}]

    assert notified(conn, sleeper) == ["default"]


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
        lambda conn, queue: (
            call(conn, "configure_queue", queue=queue)
            and call(conn, "pause_queue", queue=queue)
            and None
        ),
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

    return notified(conn, sleeper)


@pytest.mark.parametrize("how", MAKERS)
def test_a_sleeper_hears_of_all_that_makes_a_job_due(connect, how):
    assert heard_by_sleepers(connect, how, MAKERS) == ["mail"]


@pytest.mark.parametrize("how", IDLE)
def test_a_sleeper_is_not_woken_for_what_is_not_due(connect, how):
    assert heard_by_sleepers(connect, how, IDLE) == []


def test_only_a_sleeper_is_notified_and_only_of_its_queue(conn, sleeper):
    call(conn, "enqueue_job", task="nobody sleeps")
    assert notified(conn, sleeper) == []

    call(sleeper, "begin_sleep", queues=["default"])
    call(conn, "enqueue_job", task="elsewhere", queue="mail")
    assert notified(conn, sleeper) == []

    call(conn, "enqueue_job", task="here")
    assert notified(conn, sleeper) == ["default"]

    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "a"}] * 100))
    assert notified(conn, sleeper) == ["default"]

    call(conn, "enqueue_job", task="later", run_at=datetime.now(UTC) + timedelta(hours=1))
    assert notified(conn, sleeper) == []

    call(sleeper, "end_sleep", queues=["default"])
    call(conn, "enqueue_job", task="it is awake")
    assert notified(conn, sleeper) == []


def test_a_notification_comes_with_the_commit_and_never_without(conn, connect, sleeper):
    producer = connect(autocommit=False)
    call(sleeper, "begin_sleep", queues=["default"])

    call(producer, "enqueue_job", task="a")
    assert notified(conn, sleeper) == []
    producer.rollback()
    assert notified(conn, sleeper) == []
    call(producer, "enqueue_job", task="a")
    producer.commit()
    assert notified(conn, sleeper) == ["default"]


def test_resume_and_retry_wake_sleepers(conn, sleeper):
    (row,) = call(conn, "enqueue_job", task="a")
    call(conn, "cancel_job", job_id=row["job_id"])
    call(conn, "pause_queue", queue="default")
    call(sleeper, "begin_sleep", queues=["default"])

    call(conn, "resume_queue", queue="default")
    assert notified(conn, sleeper) == ["default"]
    call(conn, "retry_job", job_id=row["job_id"])
    assert notified(conn, sleeper) == ["default"]


def test_no_function_leaves_an_advisory_lock_behind(conn):
    call(conn, "enqueue_job", task="a")
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "a"}]))
    call(conn, "recover_jobs")
    call(conn, "maintain")
    call(conn, "begin_sleep", queues=["a", "b", "a"])
    call(conn, "end_sleep", queues=["b", "a"])

    held = conn.execute(
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
    ).fetchone()[0]

    assert held == 0
