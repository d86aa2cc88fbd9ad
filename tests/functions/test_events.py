"""Jobs wait for events: whoever comes first, neither is lost, and a wait comes to its end."""

from datetime import timedelta

import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.calls import enqueue, held, schedule
from tests.functions.test_steps import now, recorded
from tests.functions.test_workflows import claim, drop_history, finish, graph, refused, states
from tests.functions.views import job

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
RELEASED = {"state": "RELEASED", "payload": None}
TIMED_OUT = {"state": "TIMED_OUT", "payload": None}
EVENT = "paid:7"


def wait(conn, pair, timeout=HOUR, step="s", event=EVENT):
    return call(conn, "await_event", **pair, step=step, event=event, timeout=timeout)[0]


def emit(conn, payload=None, event=EVENT):
    return call(conn, "emit_event", event=event, payload=payload)[0]["emit_event"]


def arrived(payload=None):
    return {"state": "ARRIVED", "payload": payload}


def waits(conn):
    return conn.execute("select event, job_id, step from rota.event_waits order by 2").fetchall()


PAYLOADS = [Jsonb({"n": 1}), Jsonb(None), Jsonb(0), Jsonb([]), None]


@pytest.mark.parametrize("payload", PAYLOADS, ids=str)
def test_an_event_that_has_come_is_taken_at_once(conn, payload):
    assert emit(conn, payload) == 0
    one = enqueue(conn)
    pair = held(conn)

    for _ in range(2):
        assert wait(conn, pair) == arrived(getattr(payload, "obj", None))

    assert states(conn, one) == ["RUNNING"]
    assert recorded(conn, one) == {
        "s": {"event": EVENT, "state": "ARRIVED", "payload": getattr(payload, "obj", None)}
    }
    assert waits(conn) == []


@pytest.mark.parametrize("payload", PAYLOADS, ids=str)
def test_an_event_wakes_who_waits_for_it(conn, payload):
    one = enqueue(conn, max_retries=0)

    assert wait(conn, held(conn)) == RELEASED
    seen = job(conn, one)
    assert (seen["state"], seen["attempt"], seen["worker"]) == ("SCHEDULED", 0, None)
    assert seen["run_at"] - now(conn) > HOUR - 10 * SECOND
    assert waits(conn) == [(EVENT, one, "s")]
    assert claim(conn) == {}

    assert emit(conn, payload) == 1
    pair = held(conn)
    assert job(conn, one)["attempt"] == 1
    assert wait(conn, pair) == arrived(getattr(payload, "obj", None))
    assert waits(conn) == []
    assert finish(conn, **pair) == "COMPLETED"


def test_the_first_emit_of_a_name_counts(conn):
    one = enqueue(conn)
    wait(conn, held(conn))

    assert [emit(conn, Jsonb(n)) for n in (1, 2)] == [1, 0]

    assert wait(conn, held(conn)) == arrived(1)
    other = enqueue(conn)
    pair = held(conn)
    assert pair["job_id"] == other
    assert wait(conn, pair) == arrived(1)
    assert states(conn, one) == ["RUNNING"]


def test_an_event_wakes_all_and_only_those_who_wait_for_it(conn):
    ids = [enqueue(conn) for _ in range(4)]
    for event in (EVENT, EVENT, "another", EVENT):
        wait(conn, held(conn), event=event)
    call(conn, "cancel_job", job_id=ids[3])

    assert emit(conn) == 2

    assert sorted(claim(conn)) == ids[:2]
    assert waits(conn) == [("another", ids[2], "s")]


def test_a_wait_comes_to_its_end_by_itself(conn, clock):
    one = enqueue(conn)
    assert wait(conn, held(conn)) == RELEASED
    clock.advance(HOUR)
    pair = held(conn)

    for _ in range(2):
        assert wait(conn, pair) == TIMED_OUT

    assert emit(conn) == 0
    assert wait(conn, pair) == TIMED_OUT
    assert recorded(conn, one) == {"s": {"event": EVENT, "state": "TIMED_OUT", "payload": None}}
    assert wait(conn, pair, step="another") == arrived()


@pytest.mark.parametrize("comes", [True, False])
def test_what_a_job_waited_for_is_no_error_of_one_that_goes_on(conn, clock, comes):
    one = enqueue(conn)
    wait(conn, held(conn))
    assert job(conn, one)["last_error"] == f"waits for event {EVENT}"
    if comes:
        emit(conn)
    else:
        clock.advance(HOUR)

    pair = held(conn)
    wait(conn, pair)

    assert job(conn, one)["last_error"] is None
    finish(conn, **pair)
    assert job(conn, one)["last_error"] is None


def test_a_wait_of_no_time_is_a_look(conn):
    enqueue(conn)
    pair = held(conn)

    assert wait(conn, pair, timedelta(0)) == TIMED_OUT
    emit(conn)
    assert wait(conn, pair, timedelta(0), "again") == arrived()


def test_an_event_that_comes_while_the_job_is_tried_again_is_taken_then(conn, clock):
    """Its wait is over by then; nobody moves a job that waits for its backoff."""
    one = enqueue(conn)
    wait(conn, held(conn))
    clock.advance(HOUR)
    call(conn, "finish_job", **held(conn), error="x", retry_in=2 * HOUR)

    assert emit(conn, Jsonb(1)) == 0
    assert claim(conn) == {}
    clock.advance(2 * HOUR)
    assert wait(conn, held(conn)) == arrived(1)
    assert states(conn, one) == ["RUNNING"]


def test_the_time_of_a_wait_is_not_prolonged_by_a_retry(conn, clock):
    one = enqueue(conn)
    wait(conn, held(conn))
    first = job(conn, one)["run_at"]
    conn.execute("update rota.live_jobs set run_at = now() - interval '1 s'")  # by some other way
    clock.advance(HOUR / 2)

    assert wait(conn, held(conn), 5 * HOUR) == RELEASED

    assert abs(job(conn, one)["run_at"] - first) < SECOND
    assert emit(conn) == 1
    assert wait(conn, held(conn)) == arrived()


def test_an_event_that_came_before_the_time_was_up_counts_also_when_it_is_asked_for_late(
    conn, clock
):
    enqueue(conn)
    wait(conn, held(conn))
    emit(conn, Jsonb(1))
    clock.advance(2 * HOUR)

    assert wait(conn, held(conn)) == arrived(1)


def test_a_job_waits_for_one_event_after_the_other(conn):
    one = enqueue(conn)
    wait(conn, held(conn), step="a", event="a")
    emit(conn, Jsonb("a"), "a")
    pair = held(conn)
    assert wait(conn, pair, step="a", event="a") == arrived("a")
    assert wait(conn, pair, step="b", event="b") == RELEASED
    emit(conn, Jsonb("b"), "b")
    pair = held(conn)

    assert wait(conn, pair, step="a", event="a") == arrived("a")
    assert wait(conn, pair, step="b", event="b") == arrived("b")
    assert set(recorded(conn, one)) == {"a", "b"}


def test_a_wait_whose_reply_was_lost_is_answered_again(conn):
    enqueue(conn)
    pair = held(conn)

    for _ in range(2):
        assert wait(conn, pair) == RELEASED
    emit(conn)
    assert wait(conn, pair) == RELEASED
    held(conn)
    assert wait(conn, pair) == RELEASED


def test_a_job_that_is_asked_to_end_does_not_wait(conn):
    one, child = graph(conn, {}, {"depends_on": "previous"})
    pair = held(conn)
    call(conn, "cancel_job", job_id=one)

    for _ in range(2):
        assert wait(conn, pair) == {"state": "CANCELLED", "payload": None}

    assert states(conn, one, child) == ["CANCELLED", "CANCELLED"]
    assert waits(conn) == []


def test_who_waits_can_be_cancelled_and_finds_the_event_when_it_is_back(conn):
    one = enqueue(conn)
    wait(conn, held(conn))
    call(conn, "cancel_job", job_id=one)
    assert emit(conn, Jsonb(1)) == 0
    call(conn, "retry_job", job_id=one)

    assert wait(conn, held(conn)) == arrived(1)


def test_a_step_awaits_one_event(conn):
    one = enqueue(conn)
    pair = held(conn)
    emit(conn, event="a")
    wait(conn, pair, event="a")

    said = refused(conn, "RTC03", "await_event", **pair, step="s", event="b", timeout=HOUR)

    assert said == f"step s of job {one} is recorded, and not as a wait for event b"
    assert refused(conn, "RTC03", "sleep_job", **pair, step="s", delay=HOUR) == (
        f"step s of job {one} is recorded, and not as a sleep"
    )


@pytest.mark.parametrize("timeout", [-SECOND, 367 * DAY, None])
def test_a_wait_lasts_a_year_at_most(conn, timeout):
    enqueue(conn)
    words = {"step": "s", "event": "e", "timeout": timeout}

    assert refused(conn, "RTV01", "await_event", **held(conn), **words).startswith("timeout must ")


@pytest.mark.parametrize("event", ["", "e" * 201, "a\nb", None])
def test_an_event_has_a_name_that_can_be_read(conn, event):
    enqueue(conn)
    words = "event must have 1 to 200 characters and no control characters"

    assert refused(conn, "RTV01", "emit_event", event=event) == words
    more = {"step": "s", "event": event, "timeout": HOUR}
    assert refused(conn, "RTV01", "await_event", **held(conn), **more) == words


def test_who_waits_behind_a_wall_waits_for_events_of_its_own(conn, connect, new_role):
    name = new_role("rota_test_events", "rota_worker", "rota_producer")
    call(conn, "wall", principal=name, queue_pattern="acme.*")
    one = enqueue(conn, queue="acme.mail")
    walled = connect(role=name)
    (row,) = call(walled, "claim_next_job", queues=["acme.mail"])
    pair = {"job_id": one, "token": row["token"]}

    for event in ("globex.paid", "acme", "paid"):
        refused(walled, "42501", "emit_event", event=event)
        refused(walled, "42501", "await_event", **pair, step="s", event=event, timeout=HOUR)
    assert conn.execute("select count(*) from rota.events").fetchone() == (0,)
    assert wait(walled, pair, event="acme.paid") == RELEASED
    assert emit(walled, event="acme.paid") == 1


@pytest.mark.parametrize("limits", [{}, {"key_max_running": 1}, {"key_in_order": True}], ids=str)
def test_who_is_woken_gets_its_turn(conn, limits):
    if limits:
        call(conn, "configure_queue", queue="default", **limits)
    one, other = enqueue(conn, key="k"), enqueue(conn, key="k")
    wait(conn, held(conn))
    if "key_in_order" in limits:
        assert claim(conn) == {}
    else:
        ((claimed, token),) = claim(conn).items()
        assert claimed == other
        finish(conn, claimed, token)

    assert emit(conn) == 1

    assert list(claim(conn)) == [one]


def test_each_run_of_a_schedule_waits_anew(conn, clock):
    schedule(conn)
    wait(conn, held(conn), event="a")
    emit(conn, Jsonb(1), "a")
    pair = held(conn)
    assert wait(conn, pair, event="a") == arrived(1)
    finish(conn, **pair)
    clock.advance(HOUR)

    assert wait(conn, held(conn), event="b") == RELEASED
    emit(conn, Jsonb(2), "b")
    assert wait(conn, held(conn), event="b") == arrived(2)


# -- upkeep


def test_events_are_kept_as_long_as_history_and_while_somebody_waits(conn, clock):
    for event in ("old", "awaited"):
        emit(conn, event=event)
    enqueue(conn)
    wait(conn, held(conn), 100 * DAY, event="never")

    call(conn, "maintain")
    assert conn.execute("select count(*) from rota.events").fetchone() == (3,)
    drop_history(conn, clock)

    assert conn.execute("select name from rota.events").fetchall() == [("never",)]
    assert emit(conn, event="never") == 1


def test_waits_of_jobs_that_are_gone_are_forgotten(conn, clock):
    for event in ("a", "b"):
        one = enqueue(conn)
        wait(conn, held(conn), event=event)
        if event == "a":
            call(conn, "cancel_job", job_id=one)
    clock.advance(2 * DAY)

    call(conn, "maintain")

    assert [event for event, *_ in waits(conn)] == ["b"]  # which has not asked again
    assert conn.execute("select name from rota.events").fetchall() == [("b",)]
    assert wait(conn, held(conn), event="b") == TIMED_OUT
