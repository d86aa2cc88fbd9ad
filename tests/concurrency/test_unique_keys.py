"""Keys with unique_for and replace, while others who have to do with the key are in the midst."""

from datetime import timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.concurrency.sessions import forget_cursors, sqlstate
from tests.waiting import wait_until

HOUR = timedelta(hours=1)
LEVELS = [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE]
THROTTLE = {"task": "t", "unique_key": "k", "unique_for": HOUR}
PLAIN = {"task": "t", "unique_key": "k"}


def debounce(payload, **arguments):
    return {**PLAIN, "replace": True, "payload": Jsonb(payload), **arguments}


def enqueue(conn, arguments):
    return call(conn, "enqueue_job", **arguments)[0]


def claimed(conn, **arguments):
    forget_cursors(conn)
    return call(conn, "claim_next_job", **arguments)


def complete(conn):
    (one,) = claimed(conn)
    call(conn, "finish_job", job_id=one["id"], token=one["token"])


def live(conn):
    return conn.execute(
        "select id, payload from rota.live_jobs where unique_key is distinct from 'other'"
        " order by id"
    ).fetchall()


def holder(conn):
    return conn.execute("select job_id from rota.unique_keys where unique_key = 'k'").fetchall()


@pytest.fixture
def over(conn, clock):
    """A key that was taken once; its time is over, and its job has ended."""
    enqueue(conn, THROTTLE)
    complete(conn)
    clock.advance(HOUR)


@pytest.mark.parametrize("before", [None, "over"])
def test_the_second_throttled_call_waits_and_gets_the_job_of_the_first(
    conn, session, request, before
):
    if before:
        request.getfixturevalue(before)
    first, second = session(), session()
    first.begin()
    (made,) = first.call("enqueue_job", **THROTTLE)

    waiting = second.start("enqueue_job", **THROTTLE)
    assert waiting.waits()
    first.commit()

    assert made["created"] is True
    assert waiting.answer() == [{"job_id": made["job_id"], "created": False}]
    assert [job_id for job_id, _ in live(conn)] == [made["job_id"]]


@pytest.mark.parametrize("before", [None, "over"])
def test_the_second_throttled_call_makes_the_job_if_the_first_rolls_back(
    conn, session, request, before
):
    if before:
        request.getfixturevalue(before)
    first, second = session(), session()
    first.begin()
    (never,) = first.call("enqueue_job", **THROTTLE)

    waiting = second.start("enqueue_job", **THROTTLE)
    assert waiting.waits()
    first.rollback()

    (made,) = waiting.answer()
    assert made["created"] is True
    assert made["job_id"] != never["job_id"]
    assert holder(conn) == [(made["job_id"],)]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_of_many_throttled_calls_one_makes_the_job(conn, session, over, ending):
    first, *others = [session() for _ in range(8)]
    first.begin()
    first.call("enqueue_job", **THROTTLE)

    waiting = [one.start("enqueue_job", **THROTTLE) for one in others]
    assert all(one.waits() for one in waiting)
    getattr(first, ending)()

    answers = [one.answer()[0] for one in waiting]
    assert [answer["created"] for answer in answers].count(True) == (ending == "rollback")
    assert {(answer["job_id"],) for answer in answers} == set(holder(conn))
    assert len(live(conn)) == 1


def test_a_call_that_finds_the_key_taken_waits_for_nobody(conn, session):
    (taken,) = call(conn, "enqueue_job", **THROTTLE)
    first, second = session(), session()
    first.begin()
    first.call("enqueue_job", **THROTTLE)

    assert second.call("enqueue_job", **THROTTLE) == [{**taken, "created": False}]
    first.rollback()


def test_a_throttled_call_waits_for_a_job_that_is_about_to_have_the_key_alone(conn, session):
    first, second = session(), session()
    first.begin()
    (plain,) = first.call("enqueue_job", **PLAIN)

    waiting = second.start("enqueue_job", **THROTTLE)
    assert waiting.waits()
    first.commit()

    assert waiting.answer() == [{"job_id": plain["job_id"], "created": False}]
    assert holder(conn) == []
    complete(conn)
    assert enqueue(conn, THROTTLE)["created"] is True


def test_a_throttled_call_has_the_key_if_the_job_with_the_key_alone_never_was(conn, session):
    first, second = session(), session()
    first.begin()
    first.call("enqueue_job", **PLAIN)

    waiting = second.start("enqueue_job", **THROTTLE)
    assert waiting.waits()
    first.rollback()

    (made,) = waiting.answer()
    assert made["created"] is True
    assert holder(conn) == [(made["job_id"],)]


def test_a_key_alone_waits_for_a_throttled_job_that_is_about_to_be(conn, session):
    first, second = session(), session()
    first.begin()
    (made,) = first.call("enqueue_job", **THROTTLE)

    waiting = second.start("enqueue_job", **PLAIN)
    assert waiting.waits()
    first.commit()

    assert waiting.answer() == [{"job_id": made["job_id"], "created": False}]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_key_alone_that_ends_just_then_is_waited_out(conn, session, ending):
    """The job is seen as live, and has the key until its end has been committed."""
    plain = enqueue(conn, PLAIN)
    first, second = session(), session()
    (one,) = claimed(conn)
    first.begin()
    first.call("finish_job", job_id=one["id"], token=one["token"])

    assert second.call("enqueue_job", **THROTTLE) == [{**plain, "created": False}]
    getattr(first, ending)()

    (after,) = second.call("enqueue_job", **THROTTLE)
    assert after["created"] is (ending == "commit")


def test_a_throttled_call_finds_the_job_of_a_debounced_one_that_is_about_to_be(conn, session):
    """The key's row has no time of its own, and its job is newer than the look before the wait."""
    first, second = session(), session()
    first.begin()
    (made,) = first.call("enqueue_job", **debounce("new"))

    waiting = second.start("enqueue_job", **THROTTLE)
    assert waiting.waits()
    first.commit()

    assert waiting.answer() == [{"job_id": made["job_id"], "created": False}]
    assert live(conn) == [(made["job_id"], "new")]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("arguments", [THROTTLE, debounce("late")], ids=["throttle", "debounce"])
@pytest.mark.parametrize("before", [None, "over"])
def test_a_holder_newer_than_the_snapshot_is_a_serialization_failure(
    conn, session, request, level, arguments, before
):
    if before:
        request.getfixturevalue(before)
    old = session()
    old.begin(level)
    old.conn.execute("select count(*) from rota.live_jobs")
    enqueue(conn, {**arguments, "payload": Jsonb("first")})

    with sqlstate("40001"):
        old.call("enqueue_job", **arguments)
    old.rollback()

    assert [payload for _, payload in live(conn)] == ["first"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_claim_newer_than_the_snapshot_is_a_serialization_failure(conn, session, level):
    enqueue(conn, debounce("old"))
    old = session()
    old.begin(level)
    old.conn.execute("select count(*) from rota.live_jobs")
    assert len(claimed(conn)) == 1

    with sqlstate("40001"):
        old.call("enqueue_job", **debounce("new"))
    old.rollback()


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_job_that_is_just_being_claimed_is_left_alone_and_the_event_is_a_new_job(
    conn, session, ending
):
    old = enqueue(conn, debounce("old"))["job_id"]
    first = session()
    first.begin()
    assert len(first.call("claim_next_job")) == 1

    new = enqueue(conn, debounce("new"))
    getattr(first, ending)()

    assert new["created"] is True
    assert live(conn) == [(old, "old"), (new["job_id"], "new")]
    # The key is the new one's from now on, whatever became of the claim.
    assert enqueue(conn, debounce("newer")) == {**new, "created": False}
    assert live(conn) == [(old, "old"), (new["job_id"], "newer")]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_job_that_is_just_being_cancelled_is_left_alone_and_the_event_is_a_new_job(
    conn, session, ending
):
    old = enqueue(conn, debounce("old"))["job_id"]
    first = session()
    first.begin()
    first.call("cancel_job", job_id=old)

    new = enqueue(conn, debounce("new"))
    getattr(first, ending)()

    assert new["created"] is True
    assert ("new" in dict(live(conn)).values()) is True


@pytest.mark.parametrize(
    ("ending", "payload"), [("commit", "new"), ("rollback", "old")], ids=["commit", "rollback"]
)
@pytest.mark.parametrize("key", [None, "acme"])
def test_a_claim_passes_by_a_job_that_is_just_being_replaced(conn, session, ending, payload, key):
    old = enqueue(conn, debounce("old", key=key))["job_id"]
    first = session()
    first.begin()
    assert first.call("enqueue_job", **debounce("new", key=key))[0]["created"] is False

    assert claimed(conn) == []
    getattr(first, ending)()

    # A turn that led to a locked job is looked at again a moment later.
    found = wait_until(lambda: claimed(conn))
    assert [(one["id"], one["payload"]) for one in found] == [(old, payload)]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_who_cancels_a_job_that_is_just_being_replaced_waits(conn, session, ending):
    old = enqueue(conn, debounce("old"))["job_id"]
    first, second = session(), session()
    first.begin()
    first.call("enqueue_job", **debounce("new"))

    waiting = second.start("cancel_job", job_id=old)
    assert waiting.waits()
    getattr(first, ending)()

    assert waiting.answer()[0]["state"] == "CANCELLED"


@pytest.mark.parametrize("before", ["nothing", "a job"])
def test_the_second_of_two_that_replace_has_the_last_word(conn, session, before):
    if before == "a job":
        enqueue(conn, debounce("old"))
    first, second = session(), session()
    first.begin()
    (made,) = first.call("enqueue_job", **debounce("first"))

    waiting = second.start("enqueue_job", **debounce("second"))
    assert waiting.waits()
    first.commit()

    assert waiting.answer() == [{"job_id": made["job_id"], "created": False}]
    assert live(conn) == [(made["job_id"], "second")]


def test_the_second_of_two_that_replace_makes_the_job_if_the_first_rolls_back(conn, session):
    first, second = session(), session()
    first.begin()
    first.call("enqueue_job", **debounce("first"))

    waiting = second.start("enqueue_job", **debounce("second"))
    assert waiting.waits()
    first.rollback()

    (made,) = waiting.answer()
    assert made["created"] is True
    assert live(conn) == [(made["job_id"], "second")]
    assert holder(conn) == [(made["job_id"],)]


def test_a_job_that_is_claimed_while_another_call_has_the_key_is_not_replaced(conn, session):
    """The look at the job comes after the key is had, and sees what has happened meanwhile."""
    old = enqueue(conn, debounce("old"))["job_id"]
    first, second = session(), session()
    first.begin()
    first.conn.execute("select from rota.unique_keys for update")

    waiting = second.start("enqueue_job", **debounce("new"))
    assert waiting.waits()
    assert len(claimed(conn)) == 1
    first.rollback()

    (made,) = waiting.answer()
    assert made["created"] is True
    assert live(conn) == [(old, "old"), (made["job_id"], "new")]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_maintain_passes_by_a_key_that_is_just_being_taken(conn, session, over, ending):
    first = session()
    first.begin()
    (made,) = first.call("enqueue_job", **THROTTLE)

    call(conn, "maintain")
    getattr(first, ending)()

    assert (holder(conn) == [(made["job_id"],)]) is (ending == "commit")
    call(conn, "maintain")
    assert len(holder(conn)) == (ending == "commit")


def test_a_key_that_is_just_being_forgotten_is_taken_anew(conn, session, over):
    first, second = session(), session()
    first.begin()
    first.call("maintain")

    waiting = second.start("enqueue_job", **THROTTLE)
    assert waiting.waits()
    first.commit()

    (made,) = waiting.answer()
    assert made["created"] is True
    assert holder(conn) == [(made["job_id"],)]


FORMS = {
    "alone": {},
    "unique_for": {"unique_for": "1 hour"},
    "replace": {"replace": True},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("other", FORMS)
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_bulks_that_share_keys_in_opposite_order_do_not_deadlock(session, form, other, ending):
    def bulk(keys, more):
        return Jsonb([{"task": "t", "unique_key": key, **more} for key in keys])

    first, second, third = session(), session(), session()
    first.begin()
    first.call("enqueue_jobs", jobs=bulk("b", FORMS[form]))

    # The second takes "a" and waits for "b"; the third, which names "b" first, must not hold it.
    forwards = second.start("enqueue_jobs", jobs=bulk("abc", FORMS[form]))
    forwards_waits = forwards.waits()
    backwards = third.start("enqueue_jobs", jobs=bulk("cba", FORMS[other]))
    backwards_waits = backwards.waits()
    getattr(first, ending)()

    assert forwards_waits is True
    assert len(forwards.answer()) == len(backwards.answer()) == 3
    assert backwards_waits is True or "replace" in (form, other)


def test_a_bulk_that_replaces_and_a_bulk_that_cancels_do_not_deadlock(conn, session):
    waits, other = (
        enqueue(conn, {**debounce("old"), "unique_key": "a"})["job_id"],
        enqueue(conn, {"task": "t", "unique_key": "c"})["job_id"],
    )
    blocker, enqueues, cancels = session(), session(), session()
    blocker.begin()
    blocker.call("enqueue_job", task="t", unique_key="b")

    # It has replaced "a", waits for "b", and will come to "c".
    bulk = enqueues.start(
        "enqueue_jobs",
        jobs=Jsonb(
            [
                {"task": "t", "unique_key": "a", "replace": True},
                {"task": "t", "unique_key": "b"},
                {"task": "t", "unique_key": "c"},
            ]
        ),
    )
    assert bulk.waits()
    cancelled = cancels.start("cancel_jobs", filter=Jsonb({"ids": [waits, other]}), dry_run=False)
    assert cancelled.waits()
    blocker.commit()

    assert [row["created"] for row in bulk.answer()] == [False, False, False]
    assert cancelled.answer()[0]["changed"] == 2
