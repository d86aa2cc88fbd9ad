"""Settings, pauses, workers, and who is woken."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from db.gateway import call


def status(conn, queue):
    cursor = conn.cursor(row_factory=dict_row)
    return cursor.execute("select * from rota.queue_status where queue = %s", [queue]).fetchone()


def test_configuring_a_queue_leaves_what_is_not_named(conn):
    call(conn, "configure_queue", queue="mail", max_retries=7, timeout=timedelta(minutes=1))
    call(conn, "configure_queue", queue="mail", backoff_base=timedelta(seconds=1))

    found = status(conn, "mail")

    assert (found["max_retries"], found["timeout"]) == (7, timedelta(minutes=1))
    assert (found["backoff_base"], found["backoff_cap"]) == (timedelta(seconds=1), None)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1001}, "max_retries"),
        ({"backoff_base": timedelta(0)}, "backoff_base"),
        ({"backoff_base": timedelta(days=400)}, "backoff_base"),
        ({"backoff_cap": timedelta(seconds=-1)}, "backoff_cap"),
        ({"timeout": timedelta(0)}, "timeout"),
        ({"queue": ""}, "queue"),
        ({"queue": "q" * 101}, "queue"),
        ({"queue": None}, "queue"),
        ({"queue": "a\x1bb"}, "queue"),
    ],
)
def test_a_setting_out_of_range_is_named(conn, arguments, named):
    with pytest.raises(psycopg.Error, match=named) as caught:
        call(conn, "configure_queue", **{"queue": "mail", **arguments})

    assert caught.value.sqlstate == "RTV01"
    assert status(conn, "mail") is None


def test_the_backoff_of_a_queue_is_used(conn):
    call(
        conn,
        "configure_queue",
        queue="mail",
        backoff_base=timedelta(days=100),
        backoff_cap=timedelta(days=300),
    )
    delays = []
    for _ in range(30):
        call(conn, "enqueue_job", task="send", queue="mail")
        (claimed,) = call(conn, "claim_next_job", queues=["mail"])
        (told,) = call(conn, "finish_job", job_id=claimed["id"], token=claimed["token"], error="x")
        delays.append(told["run_at"] - datetime.now(UTC))

    assert max(delays) <= timedelta(days=100)
    assert max(delays) > timedelta(days=30)


def test_pausing_twice_keeps_the_first_time_and_running_jobs_go_on(conn):
    call(conn, "enqueue_job", task="send", queue="mail")
    (claimed,) = call(conn, "claim_next_job", queues=["mail"])
    call(conn, "pause_queue", queue="mail")
    first = status(conn, "mail")["paused_at"]

    call(conn, "pause_queue", queue="mail")

    assert status(conn, "mail")["paused_at"] == first
    (told,) = call(conn, "finish_job", job_id=claimed["id"], token=claimed["token"])
    assert told["state"] == "COMPLETED"


def test_resuming_a_queue_that_nobody_paused_is_nothing(conn):
    call(conn, "configure_queue", queue="mail")

    call(conn, "resume_queue", queue="mail")

    assert status(conn, "mail")["paused_at"] is None


def test_the_status_counts_what_waits_and_what_runs(conn):
    call(conn, "enqueue_job", task="a", queue="mail")
    call(conn, "enqueue_job", task="b", queue="mail", priority=5)
    call(conn, "enqueue_job", task="c", queue="mail", run_at=datetime.now(UTC) + timedelta(days=1))
    call(conn, "claim_next_job", queues=["mail"])

    found = status(conn, "mail")

    assert (found["scheduled"], found["due"], found["running"]) == (2, 1, 1)
    assert found["oldest_due_at"] is not None


def test_a_worker_shows_itself_and_its_stop(conn, clock):
    arguments = {
        "worker": "w1",
        "host": "here",
        "pid": 7,
        "queues": ["mail"],
        "concurrency": 4,
        "version": "abc",
    }
    call(conn, "announce_worker", **arguments)
    clock.advance(timedelta(seconds=30))
    call(conn, "announce_worker", **arguments)
    call(conn, "enqueue_job", task="a", queue="mail")
    call(conn, "claim_next_job", queues=["mail"], worker="w1")

    cursor = conn.cursor(row_factory=dict_row)
    (seen,) = cursor.execute("select * from rota.worker_status").fetchall()
    call(conn, "dismiss_worker", worker="w1")
    (stopped,) = cursor.execute("select * from rota.worker_status").fetchall()

    assert (seen["queues"], seen["running"], seen["stopped_at"]) == (["mail"], 1, None)
    assert seen["last_seen_at"] - seen["started_at"] >= timedelta(seconds=29)
    assert stopped["stopped_at"] is not None


def test_a_worker_shows_its_tasks_its_overrun_places_and_its_clock(conn, clock):
    about = {"worker": "w1", "host": "here", "pid": 7, "queues": ["mail"], "concurrency": 4}
    (now,) = conn.execute("select rota._now()").fetchone()
    ahead = now + timedelta(seconds=90)
    query = "select tasks, overrun, clock_difference from rota.worker_status"
    clock.set(now)

    call(conn, "announce_worker", **about, version="1", tasks=["b", "a"], overrun=3, clock=ahead)
    told = conn.execute(query).fetchall()
    clock.advance(timedelta(seconds=10))
    call(conn, "announce_worker", **about, version="1", tasks=["c"], overrun=0, clock=ahead)
    later = conn.execute(query).fetchall()
    call(conn, "dismiss_worker", worker="w1")
    stopped = conn.execute(query).fetchall()
    call(conn, "announce_worker", **about, version="of before")
    untold = conn.execute(query).fetchall()

    assert [row[:2] for row in told + later] == [(["b", "a"], 3), (["c"], 0)]
    assert [round(row[2].total_seconds()) for row in told + later] == [90, 80]
    assert stopped == [(["c"], 0, None)]
    assert untold == [(None, None, None)]


@pytest.mark.parametrize(("name", "value"), [("overrun", -1), ("clock", "infinity")])
def test_a_worker_cannot_announce_what_no_view_could_show(conn, name, value):
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(
            f"""
            select rota.announce_worker(
                'w', 'h', 1, '{{a}}', 1, '1', {name} => '{value}'
            )
            """
        )

    assert caught.value.sqlstate == "RTV01"


def test_a_worker_without_a_name_is_refused(conn):
    with pytest.raises(psycopg.Error) as caught:
        call(
            conn,
            "announce_worker",
            worker="",
            host="h",
            pid=1,
            queues=["a"],
            concurrency=1,
            version="v",
        )

    assert caught.value.sqlstate == "RTV01"


def notifications(listener):
    return [notice.payload for notice in listener.notifies(timeout=0.2)]


def test_only_a_sleeper_is_notified_and_only_of_its_queue(connect):
    producer, sleeper = connect(), connect()
    sleeper.execute("listen rota_jobs")

    call(producer, "enqueue_job", task="nobody sleeps")
    assert notifications(sleeper) == []

    call(sleeper, "begin_sleep", queues=["default"])
    call(producer, "enqueue_job", task="elsewhere", queue="mail")
    assert notifications(sleeper) == []

    call(producer, "enqueue_job", task="here")
    assert notifications(sleeper) == ["default"]

    call(producer, "enqueue_jobs", jobs=Jsonb([{"task": "a"}] * 100))
    assert notifications(sleeper) == ["default"]

    call(producer, "enqueue_job", task="later", run_at=datetime.now(UTC) + timedelta(hours=1))
    assert notifications(sleeper) == []

    call(sleeper, "end_sleep", queues=["default"])
    call(producer, "enqueue_job", task="it is awake")
    assert notifications(sleeper) == []


def test_a_notification_comes_with_the_commit_and_never_without(connect):
    producer, sleeper = connect(autocommit=False), connect()
    sleeper.execute("listen rota_jobs")
    call(sleeper, "begin_sleep", queues=["default"])

    call(producer, "enqueue_job", task="a")
    assert notifications(sleeper) == []
    producer.rollback()
    assert notifications(sleeper) == []
    call(producer, "enqueue_job", task="a")
    producer.commit()
    assert notifications(sleeper) == ["default"]


def test_resume_and_retry_wake_sleepers(connect):
    conn, sleeper = connect(), connect()
    (row,) = call(conn, "enqueue_job", task="a")
    call(conn, "cancel_job", job_id=row["job_id"])
    call(conn, "pause_queue", queue="default")
    sleeper.execute("listen rota_jobs")
    call(sleeper, "begin_sleep", queues=["default"])

    call(conn, "resume_queue", queue="default")
    assert notifications(sleeper) == ["default"]
    call(conn, "retry_job", job_id=row["job_id"])
    assert notifications(sleeper) == ["default"]


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


SETTINGS = {
    "max_retries": (7, 8),
    "backoff_base": (timedelta(seconds=1), timedelta(seconds=2)),
    "backoff_cap": (timedelta(hours=1), timedelta(hours=2)),
    "timeout": (timedelta(minutes=1), timedelta(minutes=2)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_can_be_changed_alone_and_leaves_all_others(conn, name):
    """Also the pause; and another queue's settings."""
    every = {setting: value for setting, (value, _) in SETTINGS.items()}
    for queue in ("mail", "other"):
        call(conn, "configure_queue", queue=queue, **every)
        call(conn, "pause_queue", queue=queue)
    before, other = status(conn, "mail"), status(conn, "other")
    assert {setting: before[setting] for setting in every} == every

    call(conn, "configure_queue", queue="mail", **{name: SETTINGS[name][1]})

    assert status(conn, "mail") == before | {name: SETTINGS[name][1]}
    assert status(conn, "other") == other


def test_a_pause_and_a_resume_leave_the_settings_and_the_other_queues(conn):
    every = {setting: value for setting, (value, _) in SETTINGS.items()}
    for queue in ("mail", "other"):
        call(conn, "configure_queue", queue=queue, **every)
    before = status(conn, "mail")

    call(conn, "pause_queue", queue="mail")
    call(conn, "pause_queue", queue="other")
    assert status(conn, "mail") == before | {"paused_at": status(conn, "mail")["paused_at"]}
    call(conn, "resume_queue", queue="mail")

    assert status(conn, "mail") == before
    assert status(conn, "other")["paused_at"] is not None


def test_the_cap_of_a_queues_backoff_is_used(conn):
    call(conn, "configure_queue", queue="mail", backoff_base="100 days", backoff_cap="1 minute")
    call(conn, "configure_queue", queue="default", backoff_base="100 days")
    call(conn, "enqueue_job", task="send", queue="mail")
    (claimed,) = call(conn, "claim_next_job", queues=["mail"])

    (told,) = call(conn, "finish_job", job_id=claimed["id"], token=claimed["token"], error="x")

    assert told["run_at"] - datetime.now(UTC) <= timedelta(minutes=1)


def test_a_worker_keeps_what_it_said_first_and_comes_back_after_a_stop(conn, clock):
    cursor = conn.cursor(row_factory=dict_row)
    arguments = {
        "host": "here",
        "pid": 7,
        "queues": ["mail"],
        "concurrency": 4,
        "version": "abc",
    }
    for worker in ("w1", "w2"):
        call(conn, "announce_worker", worker=worker, **arguments)

    def seen():
        rows = cursor.execute("select * from rota.worker_status order by worker").fetchall()
        return {row["worker"]: row for row in rows}

    first = seen()
    assert first["w1"] | arguments == first["w1"]
    assert first["w1"]["running"] == 0
    clock.advance(timedelta(minutes=1))
    call(conn, "dismiss_worker", worker="w1")
    gone = seen()
    assert gone["w1"]["stopped_at"] >= gone["w1"]["last_seen_at"] > first["w1"]["last_seen_at"]
    clock.advance(timedelta(minutes=1))
    call(conn, "announce_worker", worker="w1", **arguments)
    back = seen()

    assert back["w1"] == first["w1"] | {"last_seen_at": back["w1"]["last_seen_at"]}
    assert back["w1"]["last_seen_at"] > gone["w1"]["last_seen_at"]
    assert first["w2"] == gone["w2"] == back["w2"]


def test_the_status_counts_each_queue_for_itself(conn):
    for number, queue in enumerate(("mail", "post"), 1):
        for _ in range(number):
            call(conn, "enqueue_job", task="due", queue=queue, run_at="2020-01-01")
            call(conn, "enqueue_job", task="later", queue=queue, run_at="2090-01-01", priority=1)
            call(conn, "enqueue_job", task="runs", queue=queue, priority=2)
        rows = call(conn, "claim_next_job", queues=[queue], worker=queue, max_jobs=number)
        assert len(rows) == number
        about = {"host": "h", "pid": 1, "queues": [queue], "concurrency": 1, "version": "v"}
        call(conn, "announce_worker", worker=queue, **about)
    call(conn, "configure_queue", queue="no jobs", max_retries=1)

    counts = {
        queue: [status(conn, queue)[name] for name in ("scheduled", "due", "running")]
        for queue in ("mail", "post", "no jobs")
    }

    assert counts == {"mail": [2, 1, 1], "post": [4, 2, 2], "no jobs": [0, 0, 0]}
    assert status(conn, "post")["oldest_due_at"] == datetime(2020, 1, 1, tzinfo=UTC)
    assert conn.execute(
        "select worker, running from rota.worker_status order by worker"
    ).fetchall() == [("mail", 1), ("post", 2)]
