"""A unique_key with replace: the job that waits under it becomes what was enqueued last."""

from datetime import UTC, datetime, timedelta

import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.concurrency.sessions import forget_cursors
from tests.functions.views import job
from tests.waiting import wait_until

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def enqueue(conn, **arguments):
    return call(conn, "enqueue_job", **{"task": "index", "unique_key": "k", **arguments})[0]


def now(conn):
    return conn.execute("select rota._now()").fetchone()[0]


def debounce(conn, delay=None, **arguments):
    """Enqueue with replace, to run after a delay; return the id, and whether a job was made."""
    if delay is not None:
        arguments["run_at"] = now(conn) + delay
    made = enqueue(conn, replace=True, **arguments)
    return made["job_id"], made["created"]


def claimed(conn, **arguments):
    forget_cursors(conn)
    return call(conn, "claim_next_job", **arguments)


def held(conn, **arguments):
    (job,) = claimed(conn, **arguments)
    return {"job_id": job["id"], "token": job["token"]}


def live(conn):
    return conn.execute("select id, payload from rota.live_jobs order by id").fetchall()


def rows(conn):
    return conn.execute("select unique_key, job_id from rota.unique_keys order by 1").fetchall()


def test_the_job_that_waits_becomes_what_was_enqueued_last(conn):
    call(conn, "configure_queue", queue="default", max_retries=7, timeout=HOUR)
    first, created = debounce(conn, MINUTE, payload=Jsonb(1), max_retries=1, timeout=SECOND)

    again, made = debounce(
        conn, HOUR, payload=Jsonb(2), task="reindex", priority=5, headers=Jsonb({"a": "b"})
    )

    assert (created, again, made) == (True, first, False)
    found = job(conn, first)
    assert (found["task"], found["payload"], found["priority"]) == ("reindex", 2, 5)
    assert (found["headers"], found["max_retries"], found["timeout"]) == ({"a": "b"}, 7, HOUR)
    assert abs(found["run_at"] - now(conn) - HOUR) < MINUTE
    assert found["scheduled_for"] == found["run_at"]
    assert [job_id for job_id, _ in live(conn)] == [first]


def test_a_replaced_job_has_no_more_than_the_last_call_gave_it(conn):
    first, _ = debounce(
        conn, MINUTE, headers=Jsonb({"a": "b"}), key="acme", timeout=SECOND, priority=3
    )

    debounce(conn, MINUTE, headers=Jsonb({}))

    found = job(conn, first)
    assert (found["headers"], found["key"], found["timeout"]) == (None, None, None)
    assert (found["priority"], found["max_retries"]) == (0, 3)


def test_each_call_shifts_the_time(conn, clock):
    first, _ = debounce(conn, MINUTE)
    for _ in range(5):
        clock.advance(MINUTE / 2)
        assert debounce(conn, MINUTE) == (first, False)
        assert claimed(conn) == []

    clock.advance(MINUTE)
    assert [one["id"] for one in claimed(conn)] == [first]


def test_no_job_waits_longer_than_unique_for(conn, clock):
    first, _ = debounce(conn, MINUTE, unique_for=2 * MINUTE)
    created_at = job(conn, first)["created_at"]
    for _ in range(3):
        clock.advance(MINUTE / 2)
        assert debounce(conn, MINUTE, unique_for=2 * MINUTE) == (first, False)

    assert job(conn, first)["run_at"] == created_at + 2 * MINUTE
    clock.advance(MINUTE / 2)
    assert [one["id"] for one in claimed(conn)] == [first]


def test_a_first_call_that_would_wait_longer_than_unique_for_does_not(conn):
    first, _ = debounce(conn, HOUR, unique_for=MINUTE)

    found = job(conn, first)
    assert found["run_at"] == found["created_at"] + MINUTE


def test_the_longest_wait_of_the_last_call_counts(conn):
    first, _ = debounce(conn, HOUR)

    debounce(conn, HOUR, unique_for=MINUTE)

    found = job(conn, first)
    assert found["run_at"] == found["created_at"] + MINUTE


def test_without_a_time_a_job_that_is_due_keeps_its_place(conn, clock):
    first, _ = debounce(conn)
    run_at = job(conn, first)["run_at"]
    clock.advance(MINUTE)
    other = enqueue(conn, unique_key=None)["job_id"]

    debounce(conn, payload=Jsonb("new"))

    assert job(conn, first)["run_at"] == run_at
    assert [one["id"] for one in claimed(conn, max_jobs=2)] == [first, other]


def test_without_a_time_a_job_that_waits_is_due_at_once(conn):
    first, _ = debounce(conn, HOUR)

    debounce(conn)

    assert [one["id"] for one in claimed(conn)] == [first]


def run(conn, job_id):
    held(conn)


def run_and_fail(conn, job_id):
    call(conn, "finish_job", **held(conn), error="boom", retry_in=HOUR)


def complete(conn, job_id):
    call(conn, "finish_job", **held(conn))


def cancel(conn, job_id):
    call(conn, "cancel_job", job_id=job_id)


def cancel_and_retry(conn, job_id):
    call(conn, "cancel_job", job_id=job_id)
    call(conn, "retry_job", job_id=job_id)


def forget(conn, job_id):
    cancel(conn, job_id)
    call(conn, "maintain")
    assert rows(conn) == []


@pytest.mark.parametrize("begin", [run, run_and_fail, complete, cancel, cancel_and_retry, forget])
def test_what_has_begun_or_ended_is_left_alone_and_the_event_is_a_new_job(conn, begin):
    first, _ = debounce(conn, payload=Jsonb("old"))
    begin(conn, first)
    before = job(conn, first)

    second, made = debounce(conn, MINUTE, payload=Jsonb("new"))

    assert made is True
    assert second != first
    assert job(conn, first) == before
    assert job(conn, second)["payload"] == "new"
    assert rows(conn) == [("k", second)]
    assert debounce(conn, MINUTE, payload=Jsonb("newer")) == (second, False)


def test_a_job_that_was_handed_back_before_its_attempt_was_charged_can_be_replaced(conn):
    first, _ = debounce(conn, payload=Jsonb("old"))
    pair = held(conn)
    call(conn, "heartbeat_job", **pair, progress=Jsonb({"half": "done"}))
    call(conn, "release_job", **pair, reason="shutting down")

    assert debounce(conn, payload=Jsonb("new")) == (first, False)

    found = job(conn, first)
    assert (found["payload"], found["progress"], found["last_error"]) == ("new", None, None)


def test_a_job_in_strict_order_that_has_begun_keeps_its_payload_and_its_place(conn):
    call(conn, "configure_queue", queue="default", key_in_order=True)
    first, _ = debounce(conn, payload=Jsonb("old"), key="acme")
    call(conn, "release_job", **held(conn))

    second, made = debounce(conn, payload=Jsonb("new"), key="acme")

    assert (made, live(conn)) == (True, [(first, "old"), (second, "new")])
    assert debounce(conn, payload=Jsonb("newer"), key="acme") == (second, False)
    for expected in (first, second):
        (one,) = claimed(conn)
        assert one["id"] == expected
        call(conn, "finish_job", job_id=one["id"], token=one["token"])


def test_a_job_without_a_key_has_no_place_to_keep_in_a_queue_in_strict_order(conn):
    call(conn, "configure_queue", queue="default", key_in_order=True)
    first, _ = debounce(conn, payload=Jsonb("old"))
    call(conn, "release_job", **held(conn))

    assert debounce(conn, payload=Jsonb("new")) == (first, False)
    assert live(conn) == [(first, "new")]


def test_a_job_that_an_old_snapshot_has_handed_back_is_replaced_where_there_is_no_order(
    conn, connect
):
    call(conn, "configure_queue", queue="default", key_max_running=1)
    first, _ = debounce(conn, payload=Jsonb("old"), key="acme")
    pair = wait_until(lambda: held(conn), 5)
    other = connect(autocommit=False)
    other.execute("set transaction isolation level repeatable read")
    call(other, "release_job", **pair)
    other.commit()

    assert debounce(conn, payload=Jsonb("new"), key="acme") == (first, False)
    assert conn.execute("select counted from rota.live_jobs").fetchall() == [(None,)]


def test_jobs_with_replace_show_no_unique_key_and_one_may_wait_while_one_runs(conn):
    first, _ = debounce(conn)
    held(conn)
    second, _ = debounce(conn)

    assert [job(conn, one)["unique_key"] for one in (first, second)] == [None, None]
    assert job(conn, first)["state"] == "RUNNING"


def test_a_live_job_with_the_key_alone_is_replaced_while_it_waits(conn):
    plain = enqueue(conn, run_at="2100-01-01", payload=Jsonb("old"))["job_id"]

    assert debounce(conn, payload=Jsonb("new")) == (plain, False)

    assert (live(conn), rows(conn)) == ([(plain, "new")], [("k", plain)])
    held(conn)
    second, made = debounce(conn, HOUR)
    assert made is True
    assert debounce(conn, HOUR) == (second, False)
    assert enqueue(conn) == {"job_id": plain, "created": False}


def test_a_job_with_unique_for_is_replaced_while_it_waits_and_remembered_still(conn, clock):
    first = enqueue(conn, unique_for=HOUR, payload=Jsonb("old"))["job_id"]

    assert debounce(conn, payload=Jsonb("new")) == (first, False)

    complete(conn, first)
    assert enqueue(conn, unique_for=HOUR) == {"job_id": first, "created": False}
    second, made = debounce(conn, payload=Jsonb("newest"))
    assert made is True
    assert enqueue(conn, unique_for=HOUR) == {"job_id": second, "created": False}


def test_unique_for_without_replace_finds_the_job_that_waits(conn):
    first, _ = debounce(conn, HOUR)

    assert enqueue(conn, unique_for=MINUTE) == {"job_id": first, "created": False}


def test_keys_are_of_their_queue(conn):
    first, _ = debounce(conn, HOUR)
    other, made = debounce(conn, HOUR, queue="other")

    assert made is True
    assert other != first


def test_a_bulk_replaces_in_the_order_of_its_jobs(conn):
    first, _ = debounce(conn, HOUR, unique_key="a")

    made = call(
        conn,
        "enqueue_jobs",
        jobs=Jsonb(
            [
                {"task": "t", "unique_key": "b", "replace": True, "payload": "b 1"},
                {"task": "t", "unique_key": "a", "replace": True, "payload": "a 1"},
                {"task": "t", "payload": "other"},
                {"task": "t", "unique_key": "a", "replace": True, "payload": None},
                {"task": "t", "unique_key": "b", "replace": True, "payload": "b 2"},
                {"task": "t", "unique_key": "c", "replace": True, "unique_for": "5 s",
                 "run_at": "2100-01-01T00:00:00Z"},
            ]
        ),
    )  # fmt: skip

    assert [row["created"] for row in made] == [True, False, True, False, False, True]
    payloads = dict(live(conn))
    assert payloads[first] is None
    assert payloads[made[0]["job_id"]] == "b 2"
    assert made[4]["job_id"] == made[0]["job_id"]
    assert job(conn, made[5]["job_id"])["run_at"] < datetime(2099, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"key": "acme"}, {"key": "acme"}),
        ({"key": "acme"}, {"key": "globex", "priority": 7}),
        ({}, {"key": "acme"}),
        ({"key": "acme"}, {}),
        ({"priority": 3}, {"priority": -3}),
    ],
)
def test_claims_find_the_job_in_the_lane_that_the_last_call_gave_it(conn, clock, before, after):
    first, _ = debounce(conn, HOUR, **before)
    debounce(conn, MINUTE, **after)

    clock.advance(MINUTE)

    assert [one["id"] for one in claimed(conn)] == [first]


def test_a_sleeper_is_told_of_a_job_that_comes_to_be_due_at_once(conn, connect):
    debounce(conn, HOUR)
    sleeper = connect()
    sleeper.execute("listen rota_jobs")
    call(sleeper, "begin_sleep", queues=["default"], longest=HOUR)

    debounce(conn)

    assert [note.payload for note in sleeper.notifies(timeout=10, stop_after=1)] == ["default"]


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_it_works_at_every_isolation_level(connect, level):
    conn = connect(autocommit=False)
    for expected in (True, False):
        conn.execute(f"set transaction isolation level {level}")
        assert debounce(conn, HOUR, payload=Jsonb(expected))[1] is expected
        conn.commit()

    assert [payload for _, payload in live(conn)] == [False]
    conn.commit()


def test_maintain_keeps_the_key_of_a_job_that_waits(conn, clock):
    first, _ = debounce(conn, 3 * HOUR)
    clock.advance(2 * HOUR)

    call(conn, "maintain")

    assert debounce(conn, HOUR) == (first, False)
    assert rows(conn) == [("k", first)]


def test_what_enqueue_job_writes_a_replaced_job_gets_too(conn):
    """Whoever adds a column to enqueue_job's insert has to add it to _replace_job."""
    cursor = conn.cursor(row_factory=dict_row)
    everything = {
        "payload": Jsonb("new"), "priority": 7, "run_at": "2100-01-01", "max_retries": 9,
        "timeout": HOUR, "headers": Jsonb({"a": "b"}), "key": "acme", "task": "other",
    }  # fmt: skip
    replaced, _ = debounce(conn)
    debounce(conn, **everything)
    new, _ = debounce(conn, unique_key="l", **everything)

    query = "select * from rota.live_jobs where id = %s"
    one, other = (cursor.execute(query, [job_id]).fetchone() for job_id in (replaced, new))

    differing = {name for name in one if one[name] != other[name]}
    assert differing == {"id", "created_at"}
