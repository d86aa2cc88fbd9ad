"""A unique_key with unique_for: taken for so long after the enqueue, whatever becomes of it."""

from datetime import timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.concurrency.sessions import forget_cursors, sqlstate
from tests.functions.views import job

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


def enqueue(conn, **arguments):
    return call(conn, "enqueue_job", **{"task": "sync", "unique_key": "k", **arguments})[0]


def throttle(conn, **arguments):
    return enqueue(conn, **{"unique_for": HOUR, **arguments})


def claim(conn, **arguments):
    forget_cursors(conn)
    (claimed,) = call(conn, "claim_next_job", **arguments)
    return {"job_id": claimed["id"], "token": claimed["token"]}


def rows(conn):
    return conn.execute(
        "select queue, unique_key, job_id from rota.unique_keys order by 1, 2"
    ).fetchall()


def complete(conn, job_id):
    call(conn, "finish_job", **claim(conn))


def fail(conn, job_id):
    call(conn, "finish_job", **claim(conn), error="boom", retry=False)


def cancel(conn, job_id):
    call(conn, "cancel_job", job_id=job_id)


ENDINGS = [complete, fail, cancel]


def test_the_first_call_makes_a_job_that_shows_its_key(conn):
    first = throttle(conn)

    assert first["created"] is True
    found = job(conn, first["job_id"])
    assert (found["unique_key"], found["state"]) == ("k", "SCHEDULED")
    assert rows(conn) == [("default", "k", first["job_id"])]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_key_is_taken_until_its_time_whatever_becomes_of_its_job(conn, clock, ending):
    first = throttle(conn)
    while_it_waits = throttle(conn)
    ending(conn, first["job_id"])

    clock.advance(HOUR - SECOND)
    late = throttle(conn)
    clock.advance(SECOND)
    after = throttle(conn)

    assert while_it_waits == late == {"job_id": first["job_id"], "created": False}
    assert after["created"] is True
    assert rows(conn) == [("default", "k", after["job_id"])]


def test_the_time_runs_from_the_enqueue_that_made_the_job_and_no_call_prolongs_it(conn, clock):
    throttle(conn, unique_for=2 * SECOND)
    complete(conn, None)

    clock.advance(SECOND)
    assert throttle(conn, unique_for=HOUR)["created"] is False
    clock.advance(SECOND)

    assert throttle(conn, unique_for=HOUR)["created"] is True


def test_a_job_that_lives_longer_than_its_time_still_has_its_key(conn, clock):
    first = throttle(conn)
    held = claim(conn, lease=3 * HOUR)
    clock.advance(2 * HOUR)

    while_it_runs = throttle(conn)
    call(conn, "finish_job", **held)
    afterwards = throttle(conn)

    assert while_it_runs == {"job_id": first["job_id"], "created": False}
    assert afterwards["created"] is True


def test_a_live_job_with_the_key_alone_has_it_and_is_not_remembered(conn):
    plain = enqueue(conn)
    beside_it = throttle(conn)
    complete(conn, None)

    after_it = throttle(conn)

    assert beside_it == {"job_id": plain["job_id"], "created": False}
    assert after_it["created"] is True
    assert rows(conn) == [("default", "k", after_it["job_id"])]


def test_a_call_without_unique_for_asks_about_live_jobs_only(conn):
    first = throttle(conn)
    while_it_waits = enqueue(conn)
    complete(conn, None)

    afterwards = enqueue(conn)

    assert while_it_waits == {"job_id": first["job_id"], "created": False}
    assert afterwards["created"] is True
    # The time of the first is not over: who asks for it gets that one.
    assert throttle(conn) == {"job_id": first["job_id"], "created": False}


def test_keys_are_taken_by_queue(conn):
    first = throttle(conn)
    other = throttle(conn, queue="other")
    another = throttle(conn, unique_key="another")

    assert first["created"] and other["created"] and another["created"]
    assert rows(conn) == [
        ("default", "another", another["job_id"]),
        ("default", "k", first["job_id"]),
        ("other", "k", other["job_id"]),
    ]


def test_who_asks_for_neither_writes_no_row(conn):
    enqueue(conn)
    enqueue(conn, unique_key=None)
    enqueue(conn, unique_key="l", replace=False)
    enqueue(conn, unique_key="m", replace=None)
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t", "unique_key": "n", "replace": False}]))

    assert rows(conn) == []


def test_a_call_that_finds_the_key_taken_makes_nothing(conn):
    throttle(conn)
    before = conn.execute("select last_value from rota.job_ids").fetchone()

    for _ in range(3):
        throttle(conn, payload=Jsonb("new"))

    assert conn.execute("select payload from rota.live_jobs").fetchall() == [({},)]
    assert conn.execute("select last_value from rota.job_ids").fetchone() == before


def test_the_operator_may_retry_a_job_whose_key_is_remembered(conn, clock):
    """Its own, and one whose key another job has had since: what counts is who lives."""
    old = throttle(conn)["job_id"]
    fail(conn, old)
    clock.advance(HOUR)
    new = throttle(conn)["job_id"]

    with sqlstate("RTC03"):
        call(conn, "retry_job", job_id=old)
    fail(conn, new)
    call(conn, "retry_job", job_id=new)
    assert throttle(conn) == {"job_id": new, "created": False}
    with sqlstate("RTC03"):
        call(conn, "retry_job", job_id=old)
    complete(conn, None)
    call(conn, "retry_job", job_id=old)

    # The memory is of the newer one still; when that is over, the older one lives and has the key.
    assert throttle(conn) == {"job_id": new, "created": False}
    clock.advance(HOUR)
    assert throttle(conn) == {"job_id": old, "created": False}


def test_a_rolled_back_enqueue_takes_no_key(connect):
    conn = connect(autocommit=False)
    throttle(conn)
    conn.rollback()

    assert throttle(conn)["created"] is True
    conn.commit()


def test_in_a_bulk_each_job_has_what_enqueue_job_would_give_it(conn):
    held = throttle(conn, unique_key="held")
    complete(conn, None)

    made = call(
        conn,
        "enqueue_jobs",
        jobs=Jsonb(
            [
                {"task": "a", "unique_key": "new", "unique_for": "1 hour"},
                {"task": "b"},
                {"task": "c", "unique_key": "held", "unique_for": "PT1H"},
                {"task": "d", "unique_key": "new", "unique_for": "1 hour", "replace": False},
                {"task": "e", "unique_key": "held", "unique_for": None},
            ]
        ),
    )

    assert [row["created"] for row in made] == [True, True, False, False, True]
    assert made[2]["job_id"] == held["job_id"]
    assert made[3]["job_id"] == made[0]["job_id"]


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_it_works_at_every_isolation_level(connect, level):
    conn = connect(autocommit=False)
    for expected in (True, False):
        conn.execute(f"set transaction isolation level {level}")
        assert throttle(conn)["created"] is expected
        conn.commit()


BAD = [
    ({"unique_for": HOUR, "unique_key": None}, "unique_for needs a unique_key"),
    ({"replace": True, "unique_key": None}, "replace needs a unique_key"),
    ({"unique_for": "0"}, "unique_for must be more than 0 and at most 366 days, not 00:00:00"),
    ({"unique_for": "-1 s"}, "unique_for must be more than 0 and at most 366 days, not -00:00:01"),
    ({"unique_for": "367 days"}, "unique_for must be more than 0 and at most 366 days, not 367 d"),
    ({"unique_for": "1 mon -29 days"}, "unique_for must be more than 0 and at most 366 days"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_what_makes_no_sense_is_refused(conn, arguments, words):
    with pytest.raises(psycopg.Error, match=words) as alone:
        enqueue(conn, **arguments)
    wanted = {"task": "t", "unique_key": "k", **arguments}
    if "unique_for" in wanted:
        wanted["unique_for"] = str(wanted["unique_for"])
    with pytest.raises(psycopg.Error, match=rf"jobs\[1\]: {words}") as in_a_bulk:
        call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}, wanted]))

    assert (alone.value.sqlstate, in_a_bulk.value.sqlstate) == ("RTV01", "RTV01")
    assert rows(conn) == []


@pytest.mark.parametrize("unique_for", ["1 us", "366 days", "1 month"])
def test_a_time_may_be_short_or_long(conn, unique_for):
    assert enqueue(conn, unique_for=unique_for)["created"] is True


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("unique_for", "soon", "unique_for must be an interval, such as 90 seconds"),
        ("replace", "perhaps", "replace must be true or false"),
    ],
)
def test_a_bulk_names_the_value_that_does_not_convert(conn, field, value, words):
    with pytest.raises(psycopg.Error, match=rf"jobs\[0\]: {words}") as error:
        call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t", "unique_key": "k", field: value}]))

    assert error.value.sqlstate == "RTV01"


def test_maintain_forgets_keys_that_are_over_and_whose_jobs_have_ended(conn, clock):
    throttle(conn, unique_key="over", unique_for=SECOND, run_at="2000-01-01")
    complete(conn, None)
    throttle(conn, unique_key="over, but live", unique_for=SECOND)
    throttle(conn, unique_key="not over", unique_for=3 * HOUR, run_at="2000-01-01")
    complete(conn, None)
    clock.advance(2 * HOUR)

    call(conn, "maintain")

    assert [key for _, key, _ in rows(conn)] == ["not over", "over, but live"]


def test_maintain_forgets_more_than_a_portion_of_keys(conn, clock):
    conn.execute(
        "insert into rota.unique_keys select 'q', i::text, i, rota._now()"
        " from generate_series(1, 10500) as i"
    )
    clock.advance(SECOND)

    call(conn, "maintain")

    assert rows(conn) == []


def test_a_queue_that_is_deleted_is_remembered_with_its_keys_no_more(conn):
    first = throttle(conn, queue="q")
    throttle(conn, queue="other")
    cancel(conn, first["job_id"])

    call(conn, "delete_queue", queue="q")

    assert [queue for queue, _, _ in rows(conn)] == ["other"]
    assert throttle(conn, queue="q")["created"] is True


def test_a_neighbour_s_key_is_not_told(conn, connect, new_role):
    new_role("rota_test_throttled", "rota_producer")
    call(conn, "wall", principal="rota_test_throttled", queue_pattern="acme.*")
    throttle(conn, queue="globex.mail")
    neighbour = connect(role="rota_test_throttled", prepare_threshold=None)

    for arguments in ({"unique_for": HOUR}, {"replace": True}, {"unique_for": "-1 s"}):
        for unique_key in ("k", "free"):
            with sqlstate("42501"):
                enqueue(neighbour, queue="globex.mail", unique_key=unique_key, **arguments)

    assert throttle(neighbour, queue="acme.mail")["created"] is True
