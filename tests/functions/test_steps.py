"""What a job has done is recorded and not done again; a job that sleeps holds nothing."""

from datetime import timedelta

import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.calls import enqueue, held, schedule
from tests.functions.test_workflows import claim, drop_history, finish, graph, refused, states
from tests.functions.views import job

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
AT_ONCE = timedelta(0)


def record(conn, pair, step, result=None):
    return call(conn, "record_step", **pair, step=step, result=result)[0]["record_step"]


def recorded(conn, job_id):
    return {row["step"]: row["result"] for row in call(conn, "recorded_steps", job_id=job_id)}


def sleep(conn, pair, delay=HOUR, step="nap"):
    return call(conn, "sleep_job", **pair, step=step, delay=delay)[0]


def now(conn):
    return conn.execute("select rota._now()").fetchone()[0]


@pytest.mark.parametrize("result", [Jsonb({"n": 1}), Jsonb(None), Jsonb([]), Jsonb(0), None])
def test_the_first_result_of_a_step_counts(conn, result):
    enqueue(conn)
    pair = held(conn)

    assert record(conn, pair, "one", result) == getattr(result, "obj", None)
    assert record(conn, pair, "one", Jsonb("again")) == getattr(result, "obj", None)
    assert recorded(conn, pair["job_id"]) == {"one": getattr(result, "obj", None)}


def test_steps_come_in_the_order_in_which_they_were_recorded(conn):
    enqueue(conn)
    pair = held(conn)

    for step in ("b", "a", "c"):
        record(conn, pair, step)

    rows = call(conn, "recorded_steps", job_id=pair["job_id"])
    assert [row["step"] for row in rows] == ["b", "a", "c"]
    assert rows[0]["recorded_at"] < rows[1]["recorded_at"] < rows[2]["recorded_at"]


@pytest.mark.parametrize("step", ["", "s" * 201, "a\nb", None])
@pytest.mark.parametrize("function", ["record_step", "sleep_job", "await_event"])
def test_a_step_has_a_name_that_can_be_read(conn, function, step):
    enqueue(conn)
    more = {
        "record_step": {},
        "sleep_job": {"delay": HOUR},
        "await_event": {"event": "e", "timeout": HOUR},
    }

    said = refused(conn, "RTV01", function, **held(conn), step=step, **more[function])

    assert said == "step must have 1 to 200 characters and no control characters"


@pytest.mark.parametrize(
    ("function", "more"),
    [
        ("record_step", {}),
        ("sleep_job", {"delay": HOUR}),
        ("await_event", {"event": "e", "timeout": HOUR}),
    ],
)
def test_a_late_worker_records_nothing(conn, clock, function, more):
    one = enqueue(conn)
    late = held(conn)
    clock.advance(HOUR)
    call(conn, "recover_jobs")
    clock.advance(HOUR)

    said = refused(conn, "RTC02", function, **late, step="one", **more)

    assert said == f"job {one} is not held under this token"
    assert recorded(conn, one) == {}
    call(conn, "finish_job", **held(conn))
    assert refused(conn, "RTC02", function, **late, step="one", **more) == said


def test_who_may_still_finish_may_record(conn, clock):
    enqueue(conn)
    pair = held(conn)
    clock.advance(HOUR)

    assert record(conn, pair, "one", Jsonb(1)) == 1


@pytest.mark.parametrize("way", ["tried again", "lost", "released", "retried by an operator"])
def test_the_steps_of_a_job_are_there_for_its_next_attempt(conn, clock, way):
    one = enqueue(conn)
    pair = held(conn)
    record(conn, pair, "one", Jsonb(1))
    if way == "lost":
        clock.advance(HOUR)
        call(conn, "recover_jobs")
        clock.advance(HOUR)
    elif way == "released":
        call(conn, "release_job", **pair)
    else:
        more = {"retry": False} if "operator" in way else {"retry_in": AT_ONCE}
        call(conn, "finish_job", **pair, error="x", **more)
    if "operator" in way:
        call(conn, "retry_job", job_id=one)

    pair = held(conn)

    assert recorded(conn, one) == {"one": 1}
    assert record(conn, pair, "one", Jsonb(2)) == 1
    call(conn, "finish_job", **pair)
    assert recorded(conn, one) == {"one": 1}


def test_each_run_of_a_schedule_has_steps_of_its_own(conn, clock):
    one = schedule(conn)
    pair = held(conn)
    record(conn, pair, "one", Jsonb(1))
    call(conn, "finish_job", **pair, error="x", retry_in=AT_ONCE)
    pair = held(conn)
    assert record(conn, pair, "one", Jsonb(2)) == 1
    assert recorded(conn, one) == {"one": 1}

    call(conn, "finish_job", **pair)
    assert recorded(conn, one) == {}
    clock.advance(HOUR)

    assert record(conn, held(conn), "one", Jsonb(3)) == 3
    assert recorded(conn, one) == {"one": 3}


def test_a_step_that_is_rolled_back_has_not_been(conn, connect):
    one = enqueue(conn)
    pair = held(conn)
    other = connect(autocommit=False)
    record(other, pair, "one", Jsonb(1))
    other.rollback()

    assert record(conn, pair, "one", Jsonb(2)) == 2
    assert recorded(conn, one) == {"one": 2}


def test_the_steps_of_a_job_that_there_is_not_are_refused(conn):
    assert refused(conn, "RTN01", "recorded_steps", job_id=99) == "there is no job 99"
    assert recorded(conn, enqueue(conn)) == {}


# -- sleep


def test_a_job_that_sleeps_holds_nothing_and_is_charged_nothing(conn, clock):
    one = enqueue(conn, max_retries=0)
    pair = held(conn)
    began = now(conn)

    row = sleep(conn, pair, 30 * DAY)

    assert row["state"] == "SCHEDULED"
    assert row["run_at"] - began - 30 * DAY < HOUR
    seen = job(conn, one)
    assert (seen["attempt"], seen["worker"], seen["lease_until"]) == (0, None, None)
    assert claim(conn) == {}
    clock.advance(30 * DAY)
    pair = held(conn)
    assert job(conn, one)["attempt"] == 1
    assert sleep(conn, pair, 30 * DAY) == {"job_id": one, "state": "RUNNING", "run_at": None}
    assert sleep(conn, pair, 30 * DAY)["state"] == "RUNNING"
    assert finish(conn, **pair) == "COMPLETED"


def test_what_a_job_slept_for_is_no_error_of_one_that_goes_on(conn, clock):
    one = enqueue(conn, max_retries=5)
    call(conn, "finish_job", **held(conn), error="boom", retry_in=AT_ONCE)
    sleep(conn, held(conn))
    assert job(conn, one)["last_error"] == "sleeps (nap)"
    clock.advance(HOUR)

    pair = held(conn)
    sleep(conn, pair)
    assert job(conn, one)["last_error"] is None
    call(conn, "finish_job", **pair, error="bang", retry_in=AT_ONCE)
    pair = held(conn)
    sleep(conn, pair)

    assert job(conn, one)["last_error"] == "bang"
    assert finish(conn, **pair) == "COMPLETED"


def test_a_job_that_is_woken_too_early_sleeps_on(conn, clock):
    enqueue(conn)
    first = sleep(conn, held(conn))
    conn.execute("update rota.live_jobs set run_at = now() - interval '1 s'")

    again = sleep(conn, held(conn), 10 * HOUR)

    assert abs(again["run_at"] - first["run_at"]) < SECOND
    assert claim(conn) == {}


def test_a_sleep_is_slept_once_over_retries(conn, clock):
    one = enqueue(conn)
    sleep(conn, held(conn))
    clock.advance(HOUR)
    pair = held(conn)
    assert sleep(conn, pair)["state"] == "RUNNING"
    call(conn, "finish_job", **pair, error="x", retry=False)
    call(conn, "retry_job", job_id=one)

    assert sleep(conn, held(conn))["state"] == "RUNNING"


def test_sleeps_have_names_and_are_slept_one_after_the_other(conn, clock):
    one = enqueue(conn)
    for step in ("a", "b"):
        pair = held(conn)
        for slept in ("a", "b"):
            row = sleep(conn, pair, step=slept)
            if slept == step:
                break
        assert row["state"] == "SCHEDULED"
        clock.advance(HOUR)

    assert set(recorded(conn, one)) == {"a", "b"}
    assert sleep(conn, held(conn), step="b")["state"] == "RUNNING"


def test_a_sleep_of_no_time_goes_on_at_once(conn):
    one = enqueue(conn)
    pair = held(conn)

    assert sleep(conn, pair, AT_ONCE)["state"] == "RUNNING"
    assert set(recorded(conn, one)) == {"nap"}


def test_a_sleep_whose_reply_was_lost_is_answered_again(conn, clock):
    enqueue(conn)
    pair = held(conn)
    first = sleep(conn, pair)

    assert sleep(conn, pair) == first
    clock.advance(HOUR)
    held(conn)
    assert sleep(conn, pair) == first


def test_a_job_that_is_asked_to_end_does_not_fall_asleep(conn):
    one, child = graph(conn, {}, {"depends_on": "previous"})
    pair = held(conn)
    call(conn, "cancel_job", job_id=one)

    assert sleep(conn, pair)["state"] == "CANCELLED"
    assert sleep(conn, pair)["state"] == "CANCELLED"
    assert states(conn, one, child) == ["CANCELLED", "CANCELLED"]


def test_who_sleeps_can_be_cancelled_and_brought_back_to_the_same_sleep(conn, clock):
    one = enqueue(conn)
    sleep(conn, held(conn), 2 * HOUR)
    call(conn, "cancel_job", job_id=one)
    clock.advance(HOUR)
    call(conn, "retry_job", job_id=one)

    row = sleep(conn, held(conn), 2 * HOUR)

    assert row["state"] == "SCHEDULED"
    clock.advance(HOUR)
    assert sleep(conn, held(conn), 2 * HOUR)["state"] == "RUNNING"


@pytest.mark.parametrize(
    "result",
    [
        *(Jsonb(1), Jsonb(None), None, Jsonb({}), Jsonb("sleep_until")),
        *(Jsonb({"sleep_until": until}) for until in ("soon", None, "infinity", 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("function", ["sleep_job", "await_event"])
def test_a_step_that_is_something_else_is_neither_slept_nor_awaited(conn, function, result):
    one = enqueue(conn)
    pair = held(conn)
    record(conn, pair, "one", result)
    more = {"delay": HOUR} if function == "sleep_job" else {"event": "e", "timeout": HOUR}
    kind = "a sleep" if function == "sleep_job" else "a wait for event e"

    said = refused(conn, "RTC03", function, **pair, step="one", **more)

    assert said == f"step one of job {one} is recorded, and not as {kind}"
    assert states(conn, one) == ["RUNNING"]


@pytest.mark.parametrize("delay", [-SECOND, 367 * DAY, None])
def test_a_sleep_lasts_a_year_at_most(conn, delay):
    enqueue(conn)

    said = refused(conn, "RTV01", "sleep_job", **held(conn), step="nap", delay=delay)

    assert said.startswith("delay must ")


@pytest.mark.parametrize("limits", [{"max_running": 1}, {"key_max_running": 1}], ids=str)
def test_who_sleeps_leaves_its_room_to_others(conn, clock, limits):
    call(conn, "configure_queue", queue="default", **limits)
    one, other = enqueue(conn, key="k"), enqueue(conn, key="k")
    sleep(conn, held(conn))

    ((claimed, token),) = claim(conn).items()
    assert claimed == other
    finish(conn, claimed, token)
    clock.advance(HOUR)
    assert list(claim(conn)) == [one]


def test_who_sleeps_keeps_its_place_in_the_order_of_its_key(conn, clock):
    call(conn, "configure_queue", queue="default", key_in_order=True)
    one, other = enqueue(conn, key="k"), enqueue(conn, key="k")
    sleep(conn, held(conn))

    assert claim(conn) == {}
    clock.advance(HOUR)
    pair = held(conn)
    assert pair["job_id"] == one
    finish(conn, **pair)
    assert list(claim(conn)) == [other]


def test_the_run_of_a_schedule_sleeps_beyond_its_next_slot(conn, clock):
    one = schedule(conn)
    row = sleep(conn, held(conn), 3 * HOUR / 2)
    assert row["state"] == "SCHEDULED"
    clock.advance(HOUR)
    assert claim(conn) == {}
    clock.advance(HOUR / 2)

    pair = held(conn)

    assert sleep(conn, pair, HOUR)["state"] == "RUNNING"
    assert job(conn, one)["run"] == 1
    finish(conn, **pair)
    assert recorded(conn, one) == {}


def test_children_wait_while_their_parent_sleeps(conn, clock):
    _, child = graph(conn, {}, {"depends_on": "previous"})
    sleep(conn, held(conn))
    assert states(conn, child) == ["WAITING"]
    clock.advance(HOUR)
    finish(conn, **held(conn))

    assert states(conn, child) == ["SCHEDULED"]


@pytest.mark.parametrize("way", ["sleeps", "awaits", "has recorded a step"])
@pytest.mark.parametrize("held_by", ["unique_key", "unique_for"])
def test_a_job_that_has_begun_is_not_replaced(conn, way, held_by):
    """What it has done is recorded under its id, and is not what the new job asks for."""
    more = {"replace": True} | ({"unique_for": DAY} if held_by == "unique_for" else {})
    one = enqueue(conn, unique_key="k", payload=Jsonb(1), **more)
    pair = held(conn)
    if way == "sleeps":
        sleep(conn, pair)
    elif way == "awaits":
        call(conn, "await_event", **pair, step="s", event="e", timeout=HOUR)
    else:
        record(conn, pair, "one")
        call(conn, "release_job", **pair)

    (row,) = call(conn, "enqueue_job", task="t", unique_key="k", payload=Jsonb(2), **more)

    assert row["created"] and row["job_id"] != one
    assert (job(conn, one)["payload"], job(conn, row["job_id"])["payload"]) == (1, 2)
    (again,) = call(conn, "enqueue_job", task="t", unique_key="k", payload=Jsonb(3), **more)
    assert again == {"job_id": row["job_id"], "created": False}


# -- upkeep


def test_steps_are_kept_as_long_as_their_job_and_its_history(conn, clock):
    live, done = enqueue(conn), enqueue(conn)
    tokens = claim(conn)
    for one in (live, done):
        record(conn, {"job_id": one, "token": tokens[one]}, "one", Jsonb(1))
    finish(conn, done, tokens[done])

    call(conn, "maintain")
    assert (recorded(conn, live), recorded(conn, done)) == ({"one": 1}, {"one": 1})
    drop_history(conn, clock)
    assert states(conn, done) == [None]
    call(conn, "maintain")

    rows = conn.execute("select job_id from rota.job_steps").fetchall()
    assert rows == [(live,)]
    assert recorded(conn, live) == {"one": 1}


def test_of_a_schedule_the_steps_of_its_present_run_are_kept(conn, clock):
    one = schedule(conn)
    for _ in range(2):
        pair = held(conn)
        record(conn, pair, "one", Jsonb(1))
        call(conn, "finish_job", **pair)
        clock.advance(HOUR)
    pair = held(conn, lease=30 * DAY)
    record(conn, pair, "one", Jsonb(2))
    assert conn.execute("select count(*) from rota.job_steps").fetchone() == (3,)

    drop_history(conn, clock)

    assert conn.execute("select run from rota.job_steps").fetchall() == [(3,)]
    assert recorded(conn, one) == {"one": 2}
