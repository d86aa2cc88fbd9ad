"""Queues: their names, settings and pauses, what they show, and how they are forgotten."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.waiting import wait_until

UNSPELLABLE = ["a,b", "mail:2", "mail.*", " lead", "trail ", ","]


def status(conn, queue):
    cursor = conn.cursor(row_factory=dict_row)
    return cursor.execute("select * from rota.queue_status where queue = %s", [queue]).fetchone()


def test_configuring_a_queue_leaves_what_is_not_named(conn):
    call(conn, "configure_queue", queue="mail", max_retries=7, timeout=timedelta(minutes=1))
    call(conn, "configure_queue", queue="mail", backoff_base=timedelta(seconds=1))

    found = status(conn, "mail")

    assert (found["max_retries"], found["timeout"]) == (7, timedelta(minutes=1))
    assert (found["backoff_base"], found["backoff_cap"]) == (timedelta(seconds=1), None)


@pytest.mark.leaves_nothing
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


def test_the_status_counts_each_queue_for_itself(conn):
    for number, queue in enumerate(("mail", "post"), 1):
        for _ in range(number):
            call(conn, "enqueue_job", task="due", queue=queue, run_at="2020-01-01 00:00Z")
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


LIMITS = {
    "max_running": 50,
    "max_starts": 1000,
    "starts_period": timedelta(minutes=1),
    "key_max_running": 5,
    "key_max_starts": 100,
    "key_starts_period": timedelta(seconds=2.5),
    "key_in_order": True,
    "keep_completed": timedelta(0),
    "keep_failed": timedelta(days=3),
}


def test_limits_of_a_queue_are_shown(conn):
    call(conn, "enqueue_job", task="t", queue="free")
    call(conn, "configure_queue", queue="mail", **LIMITS)

    assert status(conn, "mail").items() >= LIMITS.items()
    assert status(conn, "free").items() >= dict.fromkeys(LIMITS).items()

    call(conn, "configure_queue", queue="mail", unset=["max_running", "key_in_order"])
    left = LIMITS | {"max_running": None, "key_in_order": None}
    assert status(conn, "mail").items() >= left.items()


def key_limits(conn):
    return conn.execute("select * from rota.key_limits order by queue, key").fetchall()


def test_keys_are_shown_that_have_limits_of_their_own(conn):
    minute = timedelta(minutes=1)
    limited = {"key_max_running": 1, "max_starts": 100, "starts_period": minute}
    call(conn, "configure_queue", queue="mail", **limited)
    for key in ("acme", "none"):  # of both there is something to be remembered
        call(conn, "enqueue_job", task="t", queue="mail", key=key)
    call(conn, "configure_key", queue="mail", key="acme", max_running=2)
    call(conn, "configure_key", queue="mail", key="b", max_starts=3, starts_period=minute)
    call(conn, "configure_key", queue="post", key="acme", starts_period=minute)
    call(conn, "claim_next_job", queues=["mail"], max_jobs=2)

    found = key_limits(conn)
    call(conn, "configure_key", queue="mail", key="b", unset=["max_starts"])
    call(conn, "configure_key", queue="mail", key="acme", unset=["max_running"])

    assert found == [
        ("mail", "acme", 2, None, None),
        ("mail", "b", None, 3, minute),
        ("post", "acme", None, None, minute),
    ]
    assert key_limits(conn) == [("mail", "b", None, None, minute), found[2]]


def head(conn, queue):
    found = conn.execute("select oldest_due_at from rota.queue_heads where queue = %s", [queue])
    return found.fetchone()[0]


def test_readers_see_since_when_a_job_with_a_key_or_without_can_be_claimed(conn):
    for queue, key in (("plain", None), ("keyed", "acme"), ("gone", "acme")):
        (job,) = call(conn, "enqueue_job", task="t", queue=queue, key=key)
    call(conn, "cancel_job", job_id=job["job_id"])  # whose turn stays
    call(conn, "enqueue_job", task="t", queue="later", key="acme", run_at="2100-01-01Z")

    conn.execute("set role rota_reader")

    since = dict(conn.execute("select queue, run_at from rota.jobs").fetchall())
    assert head(conn, "plain") == since["plain"]
    assert timedelta(0) <= head(conn, "keyed") - since["keyed"] < timedelta(minutes=1)
    assert head(conn, "later") is head(conn, "gone") is None


def test_a_key_that_is_full_is_not_due(conn):
    call(conn, "configure_queue", queue="mail", key_max_running=1)
    for key in ("acme", "acme", "b"):
        call(conn, "enqueue_job", task="t", queue="mail", key=key)
    jobs = call(conn, "claim_next_job", queues=["mail"], max_jobs=2)
    assert [head(conn, "mail"), status(conn, "mail")["due"]] == [None, 1]

    (ended,) = [job for job in jobs if job["key"] == "acme"]
    call(conn, "finish_job", job_id=ended["id"], token=ended["token"])

    assert head(conn, "mail") is not None


def settings_of(conn, queue):
    rows = conn.execute(
        """
        select max_retries, backoff_base, backoff_cap, timeout
        from rota.queue_status
        where queue = %s
        """,
        [queue],
    )
    return rows.fetchone()


def refused(conn, function, **arguments):
    """Return the SQLSTATE with which a call is refused."""
    with pytest.raises(psycopg.Error) as caught:
        call(conn, function, **arguments)
    return caught.value.sqlstate


def old_job(conn, queue):
    """Add a job as it could be added while any name was allowed."""
    conn.execute("insert into rota.lanes (queue, priority) values (%s, 0)", [queue])
    return conn.execute(
        """
        insert into rota.live_jobs (
            task, payload, queue, priority, run_at, scheduled_for, max_retries, created_at
        )
        values ('t', '{}', %s, 0, now(), now(), 0, now())
        returning id
        """,
        [queue],
    ).fetchone()[0]


@pytest.mark.parametrize("function", ["pause_queue", "resume_queue", "delete_queue"])
def test_a_name_that_nobody_uses_is_no_queue(conn, function):
    assert refused(conn, function, queue="defualt") == "RTN03"

    assert status(conn, "defualt") is None


def test_a_queue_may_be_configured_and_paused_before_its_first_job(conn):
    call(conn, "configure_queue", queue="mail")
    call(conn, "pause_queue", queue="mail")

    call(conn, "enqueue_job", task="t", queue="mail")

    assert call(conn, "claim_next_job", queues=["mail"]) == []


@pytest.mark.parametrize("queue", UNSPELLABLE)
def test_a_name_that_no_command_line_can_spell_is_refused(conn, queue):
    jobs = Jsonb([{"task": "t", "queue": queue}])

    assert refused(conn, "enqueue_job", task="t", queue=queue) == "RTV01"
    assert refused(conn, "enqueue_jobs", jobs=jobs) == "RTV01"
    assert refused(conn, "schedule_job", task="t", every=timedelta(1), queue=queue) == "RTV01"
    assert refused(conn, "configure_queue", queue=queue, max_retries=1) == "RTV01"
    assert refused(conn, "pause_queue", queue=queue) == "RTV01"


@pytest.mark.parametrize("queue", ["mail-2", "a b", "a/b", "größer", "50%", "a.b"])
def test_other_names_are_taken(conn, queue):
    call(conn, "enqueue_job", task="t", queue=queue)

    assert len(call(conn, "claim_next_job", queues=[queue])) == 1


def test_jobs_in_a_queue_of_an_old_name_run_and_are_steered_as_ever(conn):
    job_id = old_job(conn, "a,b")

    call(conn, "pause_queue", queue="a,b")
    assert call(conn, "claim_next_job", queues=["a,b"]) == []
    call(conn, "configure_queue", queue="a,b", max_retries=7)
    call(conn, "resume_queue", queue="a,b")
    [held] = call(conn, "claim_next_job", queues=["a,b"])
    call(conn, "finish_job", job_id=job_id, token=held["token"], error="x")
    call(conn, "retry_job", job_id=job_id)
    [held] = call(conn, "claim_next_job", queues=["a,b"])
    call(conn, "finish_job", job_id=job_id, token=held["token"])
    call(conn, "delete_queue", queue="a,b")

    assert status(conn, "a,b") is None


def test_what_is_named_is_unset_and_the_rest_stays(conn):
    second = timedelta(seconds=1)
    call(
        conn,
        "configure_queue",
        queue="mail",
        max_retries=7,
        backoff_base=second,
        backoff_cap=2 * second,
        timeout=3 * second,
    )

    call(conn, "configure_queue", queue="mail", unset=["timeout"])
    assert settings_of(conn, "mail") == (7, second, 2 * second, None)
    call(conn, "configure_queue", queue="mail", max_retries=8, unset=["backoff_base"])
    assert settings_of(conn, "mail") == (8, None, 2 * second, None)
    call(conn, "configure_queue", queue="mail", unset=["max_retries", "backoff_cap"])
    assert settings_of(conn, "mail") == (None,) * 4


@pytest.mark.parametrize("unset", [["tiemout"], ["name"], ["paused_at"], [None], ["timeout", ""]])
def test_what_is_no_setting_cannot_be_unset(conn, unset):
    call(conn, "configure_queue", queue="mail", timeout=timedelta(seconds=1))

    assert refused(conn, "configure_queue", queue="mail", unset=unset) == "RTV01"

    assert settings_of(conn, "mail")[3] == timedelta(seconds=1)


def test_a_setting_cannot_be_given_and_unset_at_once(conn):
    with pytest.raises(psycopg.Error, match="timeout is both given and unset") as caught:
        call(conn, "configure_queue", queue="q", timeout=timedelta(1), unset=["timeout"])

    assert caught.value.sqlstate == "RTV01"


def test_a_deleted_queue_is_shown_no_more_and_begins_anew(conn):
    call(conn, "configure_queue", queue="mail", max_retries=0)
    call(conn, "pause_queue", queue="mail")
    [job] = call(conn, "enqueue_job", task="t", queue="mail", priority=5)
    call(conn, "cancel_job", job_id=job["job_id"])

    call(conn, "delete_queue", queue="mail")

    assert status(conn, "mail") is None
    assert refused(conn, "delete_queue", queue="mail") == "RTN03"
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t", "queue": "mail", "priority": 5}]))
    assert status(conn, "mail") is not None
    [held] = call(conn, "claim_next_job", queues=["mail"])
    assert held["max_retries"] == 3
    call(conn, "finish_job", job_id=held["id"], token=held["token"])
    for _ in range(2):
        call(conn, "maintain")
        assert status(conn, "mail") is not None


@pytest.mark.parametrize("when", ["now", "later", "running", "running under a limit"])
def test_a_queue_with_live_jobs_is_not_deleted(conn, when):
    limit = 1 if when == "running under a limit" else None
    call(conn, "configure_queue", queue="mail", max_retries=9, max_running=limit)
    run_at = datetime.now(UTC) + timedelta(days=1) if when == "later" else None
    call(conn, "enqueue_job", task="t", queue="mail", run_at=run_at)
    if "running" in when:
        wait_until(lambda: call(conn, "claim_next_job", queues=["mail"]))

    assert refused(conn, "delete_queue", queue="mail") == "RTC01"

    assert settings_of(conn, "mail")[0] == 9


@pytest.mark.parametrize("level", ["read committed", "repeatable read"])
def test_an_enqueue_that_saw_its_lane_before_the_deletion_loses_nothing(connect, level):
    conn, producer = connect(), connect(autocommit=False)
    [job] = call(conn, "enqueue_job", task="t", queue="mail")
    call(conn, "cancel_job", job_id=job["job_id"])
    producer.execute(f"set transaction isolation level {level}")
    producer.execute("select 1")
    if level == "read committed":
        call(producer, "enqueue_job", task="late", queue="mail")

    call(conn, "delete_queue", queue="mail")
    call(conn, "maintain")
    if level == "repeatable read":
        call(producer, "enqueue_job", task="late", queue="mail")
    producer.commit()

    assert status(conn, "mail") is not None
    [held] = call(conn, "claim_next_job", queues=["mail"])
    assert held["task"] == "late"


def test_deleting_and_configuring_take_turns(connect):
    conn, other = connect(autocommit=False), connect()
    call(conn, "configure_queue", queue="mail", max_retries=9)
    conn.commit()
    call(conn, "delete_queue", queue="mail")
    other.execute("set lock_timeout = '100ms'")

    with pytest.raises(psycopg.errors.LockNotAvailable):
        call(other, "configure_queue", queue="mail", timeout=timedelta(1))
    conn.commit()
    call(other, "configure_queue", queue="mail", timeout=timedelta(1))

    assert settings_of(conn, "mail") == (None, None, None, timedelta(1))
