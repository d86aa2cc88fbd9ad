"""What the end of a job means to those that wait for it: settled once, in the same transaction."""

from datetime import timedelta

import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.concurrency.sessions import forget_cursors, sqlstate

HOUR = timedelta(hours=1)
RUN = {"if_parent_fails": "run"}


def workflow(conn, *jobs, name=None):
    """Enqueue jobs, each as (node, parents, options); return their ids by node."""
    rows = call(
        conn,
        "enqueue_workflow",
        jobs=Jsonb(
            [
                {"task": node, "node": node, "depends_on": parents, **dict(*more)}
                for node, parents, *more in jobs
            ]
        ),
        name=name,
    )
    return {row["node"]: row["job_id"] for row in rows}


def claim(conn, most=100, queue="default"):
    """Claim what is due; return the tokens by id."""
    forget_cursors(conn)
    rows = call(conn, "claim_next_job", queues=[queue], max_jobs=most, worker="w")
    return {row["id"]: row["token"] for row in rows}


def finish(conn, *job_ids, error=None, held=None, **more):
    """Claim what is due, finish these jobs, one call for all of them, and return the others."""
    held = held or claim(conn)
    pairs = [(job_id, held.pop(job_id)) for job_id in job_ids]
    if len(pairs) == 1:
        (job_id, token) = pairs[0]
        call(conn, "finish_job", job_id=job_id, token=token, error=error, retry=False, **more)
    else:
        ids, tokens = zip(*pairs, strict=True)
        call(conn, "finish_jobs", job_ids=list(ids), tokens=list(tokens), **more)
    assert call(conn, "check_invariants") == []
    return held


def states(conn, jobs):
    rows = conn.execute("select id, state from rota.jobs where id = any(%s)", [[*jobs.values()]])
    found = dict(rows.fetchall())
    return {node: found.get(job_id) for node, job_id in jobs.items()}


def ended_by(conn, job_id):
    return conn.execute(
        "select ended_by from rota.workflow_jobs where job_id = %s", [job_id]
    ).fetchone()[0]


def left(conn):
    return conn.execute(
        "select (select count(*) from rota.job_dependencies), (select count(*) from rota.job_waits)"
    ).fetchone()


def test_a_child_of_two_waits_for_the_second(conn):
    jobs = workflow(conn, ("a", []), ("b", []), ("c", ["a", "b"]))

    held = finish(conn, jobs["a"])

    assert states(conn, jobs)["c"] == "WAITING"
    finish(conn, jobs["b"], held=held)
    assert states(conn, jobs)["c"] == "SCHEDULED"
    assert left(conn) == (0, 0)


def test_parents_that_end_in_one_batch_all_count(conn):
    jobs = workflow(conn, ("a", []), ("b", []), ("c", []), ("d", ["a", "b", "c"]))

    held = finish(conn, jobs["a"], jobs["b"])

    assert states(conn, jobs)["d"] == "WAITING"
    finish(conn, jobs["c"], held=held)
    assert states(conn, jobs)["d"] == "SCHEDULED"


def test_a_batch_of_which_one_fails_tells_each_child_of_its_own_parents(conn):
    jobs = workflow(conn, ("a", []), ("b", []), ("x", ["a"]), ("y", ["b"]))
    held = claim(conn)

    call(
        conn,
        "finish_jobs",
        job_ids=[jobs["a"], jobs["b"]],
        tokens=[held[jobs["a"]], held[jobs["b"]]],
        errors=[None, "boom"],
    )
    call(conn, "cancel_job", job_id=jobs["b"])

    assert states(conn, jobs) == {
        "a": "COMPLETED",
        "b": "CANCELLED",
        "x": "SCHEDULED",
        "y": "CANCELLED",
    }


def test_a_failure_goes_down_by_policy(conn):
    jobs = workflow(
        conn,
        ("root", []),
        ("child", ["root"]),
        ("grandchild", ["child"]),
        ("finally", ["root"], RUN),
        ("below", ["grandchild"], RUN),
    )

    finish(conn, jobs["root"], error="boom")

    assert states(conn, jobs) == {
        "root": "FAILED",
        "child": "CANCELLED",
        "grandchild": "CANCELLED",
        "finally": "SCHEDULED",
        "below": "SCHEDULED",
    }
    assert ended_by(conn, jobs["child"]) == jobs["root"]
    assert ended_by(conn, jobs["grandchild"]) == jobs["child"]
    assert left(conn) == (0, 0)


def test_a_child_for_later_waits_for_its_time_too(conn, clock):
    (later,) = conn.execute("select rota._now() + interval '1 hour'").fetchone()
    jobs = workflow(conn, ("a", []), ("b", ["a"], {"run_at": later.isoformat()}))

    finish(conn, jobs["a"])

    assert claim(conn) == {}
    clock.advance(HOUR)
    assert [*claim(conn)] == [jobs["b"]]


@pytest.mark.parametrize("error", [None, "boom"])
def test_a_parent_that_takes_room_settles_as_any_other(conn, error):
    call(conn, "configure_queue", queue="default", key_max_running=1)
    jobs = workflow(conn, ("a", [], {"key": "k"}), ("b", ["a"], RUN), ("c", ["a"]))
    held = {}
    while not held:
        held = claim(conn)

    finish(conn, jobs["a"], error=error, held=held)

    expected = "SCHEDULED" if error is None else "CANCELLED"
    seen = states(conn, jobs)
    assert (seen["b"], seen["c"]) == ("SCHEDULED", expected)


def test_a_lost_parent_without_retries_takes_its_children_down(conn, clock):
    jobs = workflow(conn, ("a", [], {"max_retries": 0}), ("b", ["a"]))
    claim(conn)
    clock.advance(HOUR)

    call(conn, "recover_jobs")

    assert states(conn, jobs) == {"a": "FAILED", "b": "CANCELLED"}


def test_sleeping_workers_are_told_of_what_is_free_to_run(conn, connect):
    jobs = workflow(conn, ("a", []), ("b", ["a"]))
    held = claim(conn)
    listener = connect()
    listener.execute("listen rota_jobs")
    call(listener, "begin_sleep", queues=["default"])

    finish(conn, jobs["a"], held=held)

    assert [*listener.notifies(timeout=5, stop_after=1)]


def test_a_job_that_lives_gets_children_later(conn):
    parent = call(conn, "enqueue_job", task="t")[0]["job_id"]
    held = claim(conn)
    jobs = workflow(conn, ("a", [parent]))
    assert states(conn, jobs) == {"a": "WAITING"}

    finish(conn, parent, held=held)

    assert states(conn, jobs) == {"a": "SCHEDULED"}


def test_what_has_ended_is_not_waited_for(conn):
    good, bad = (call(conn, "enqueue_job", task="t")[0]["job_id"] for _ in "ab")
    held = finish(conn, good)
    finish(conn, bad, held=held, error="boom")

    jobs = workflow(conn, ("a", [good]), ("b", [good, bad], RUN))

    assert states(conn, jobs) == {"a": "SCHEDULED", "b": "SCHEDULED"}
    with sqlstate("RTC01"):
        workflow(conn, ("c", [good, bad]))
    schedule = call(conn, "schedule_job", task="t", every=HOUR, name="s")[0]["job_id"]
    with sqlstate("RTV01"):
        workflow(conn, ("d", [schedule]))


# What comes of the jobs of next, and on whom they depend, by how the attempt ends.
NEXT = Jsonb([{"task": "n", "node": "n"}, {"task": "m", "depends_on": ["n"]}])


@pytest.mark.parametrize(
    ("error", "cancelled", "added"),
    [(None, False, 2), ("boom", False, 0), (None, True, 0)],
)
def test_next_is_added_only_by_a_success(conn, error, cancelled, added):
    parent = call(conn, "enqueue_job", task="t", max_retries=5)[0]["job_id"]
    ((job_id, token),) = claim(conn).items()
    if cancelled:
        call(conn, "cancel_job", job_id=parent)

    call(conn, "finish_job", job_id=job_id, token=token, error=error, next=NEXT)
    call(conn, "finish_job", job_id=job_id, token=token, error=error, next=NEXT)

    rows = conn.execute("select depends_on from rota.workflow_nodes order by job_id").fetchall()
    assert len(rows) == added
    assert rows[:1] == [([parent],)][:added]


def test_next_of_a_schedule_depends_on_nothing(conn):
    call(conn, "schedule_job", task="t", every=HOUR, name="s")
    ((job_id, token),) = claim(conn).items()

    call(conn, "finish_job", job_id=job_id, token=token, next=Jsonb([{"task": "n"}]))

    assert conn.execute("select depends_on from rota.workflow_jobs").fetchall() == [([],)]


def test_a_retry_brings_back_what_went_down_and_it_waits_again(conn):
    jobs = workflow(conn, ("a", []), ("b", ["a"]), ("c", ["b"]), ("d", ["a"], RUN))
    finish(conn, jobs["a"], error="boom")
    with sqlstate("RTC01"):
        call(conn, "retry_job", job_id=jobs["b"])

    call(conn, "retry_job", job_id=jobs["a"])

    assert states(conn, jobs) == {
        "a": "SCHEDULED",
        "b": "WAITING",
        "c": "WAITING",
        "d": "SCHEDULED",
    }
    assert ended_by(conn, jobs["b"]) is None
    assert call(conn, "check_invariants") == []


def test_a_child_of_two_that_failed_comes_back_with_the_second(conn):
    jobs = workflow(conn, ("a", []), ("b", []), ("c", ["a", "b"]), ("d", ["c"]))
    held = finish(conn, jobs["a"], error="boom")
    finish(conn, jobs["b"], error="boom", held=held)

    call(conn, "retry_job", job_id=jobs["a"])
    assert states(conn, jobs)["c"] == "CANCELLED"
    assert ended_by(conn, jobs["c"]) == jobs["b"]
    call(conn, "retry_job", job_id=jobs["b"])

    assert states(conn, jobs) == {
        "a": "SCHEDULED",
        "b": "SCHEDULED",
        "c": "WAITING",
        "d": "WAITING",
    }
    assert call(conn, "check_invariants") == []


def test_a_job_that_comes_back_waits_for_the_parent_that_still_lives(conn):
    jobs = workflow(conn, ("a", []), ("b", []), ("c", ["a", "b"]))
    held = finish(conn, jobs["a"], error="boom")  # of the edge from b to c this leaves the row

    call(conn, "retry_job", job_id=jobs["a"])
    assert states(conn, jobs) == {"a": "SCHEDULED", "b": "RUNNING", "c": "WAITING"}
    finish(conn, jobs["b"], held=held)

    assert states(conn, jobs)["c"] == "WAITING"
    finish(conn, jobs["a"])
    assert states(conn, jobs)["c"] == "SCHEDULED"


def test_a_job_that_was_cancelled_alone_comes_back_alone(conn):
    jobs = workflow(conn, ("a", []), ("b", ["a"]), ("c", ["b"]), ("d", ["b"], RUN))
    call(conn, "cancel_job", job_id=jobs["b"])
    assert states(conn, jobs) == {
        "a": "SCHEDULED",
        "b": "CANCELLED",
        "c": "CANCELLED",
        "d": "SCHEDULED",
    }
    assert call(conn, "check_invariants") == []

    finish(conn, jobs["a"])
    call(conn, "retry_job", job_id=jobs["b"])

    assert states(conn, jobs)["b"] == "SCHEDULED"
    assert states(conn, jobs)["c"] == "WAITING"


def test_a_cancelled_parent_that_lives_takes_down_those_that_asked_for_that(conn):
    jobs = workflow(conn, ("a", []), ("b", ["a"]), ("c", ["a"], RUN))

    call(conn, "cancel_job", job_id=jobs["a"])

    assert states(conn, jobs) == {"a": "CANCELLED", "b": "CANCELLED", "c": "SCHEDULED"}


def test_edges_that_nobody_settled_are_healed(conn):
    jobs = workflow(conn, ("a", []), ("b", []), ("c", ["a"]), ("d", ["b"]), ("e", ["b"], RUN))
    held = claim(conn)
    conn.execute("update rota.live_jobs set linked = null where id = any(%s)", [[*held]])
    call(conn, "finish_job", job_id=jobs["a"], token=held[jobs["a"]])
    call(conn, "finish_job", job_id=jobs["b"], token=held[jobs["b"]], error="boom", retry=False)
    assert states(conn, jobs)["c"] == "WAITING"

    call(conn, "maintain")

    assert states(conn, jobs) == {
        "a": "COMPLETED",
        "b": "FAILED",
        "c": "SCHEDULED",
        "d": "CANCELLED",
        "e": "SCHEDULED",
    }
    assert call(conn, "check_invariants") == []


def running(conn, **options):
    call(conn, "enqueue_job", task="t", **options)
    ((job_id, token),) = claim(conn).items()
    return {"job_id": job_id, "token": token}


def test_the_first_write_of_a_step_counts_also_after_a_retry(conn):
    pair = running(conn)
    call(conn, "record_step", **pair, step="s", result=Jsonb(1))
    again = call(conn, "record_step", **pair, step="s", result=Jsonb(2))
    call(conn, "finish_job", **pair, error="boom", retry=False)
    call(conn, "retry_job", job_id=pair["job_id"])
    ((job_id, token),) = claim(conn).items()

    third = call(conn, "record_step", job_id=job_id, token=token, step="s", result=Jsonb(3))

    assert [row["record_step"] for row in (*again, *third)] == [1, 1]
    with sqlstate("RTC02"):
        call(conn, "record_step", **pair, step="late")
    assert [row["step"] for row in call(conn, "recorded_steps", job_id=job_id)] == ["s"]


def test_a_sleep_is_no_longer_because_the_job_is_tried_again(conn, clock):
    pair = running(conn)
    until = call(conn, "sleep_job", **pair, step="nap", delay=HOUR)[0]["run_at"]
    call(conn, "cancel_job", job_id=pair["job_id"])
    clock.advance(HOUR / 2)
    call(conn, "retry_job", job_id=pair["job_id"])
    ((job_id, token),) = claim(conn).items()

    answer = call(conn, "sleep_job", job_id=job_id, token=token, step="nap", delay=HOUR)

    assert answer[0]["state"] == "SCHEDULED"
    assert abs(answer[0]["run_at"] - until) < HOUR / 60
    clock.advance(HOUR / 2 + HOUR / 60)
    ((job_id, token),) = claim(conn).items()
    answer = call(conn, "sleep_job", job_id=job_id, token=token, step="nap", delay=HOUR)
    assert answer[0]["state"] == "RUNNING"


def test_an_event_wakes_those_that_wait_and_the_first_one_counts(conn):
    pair = running(conn)
    wait = {"step": "s", "event": "e", "timeout": HOUR}
    assert call(conn, "await_event", **pair, **wait)[0]["state"] == "RELEASED"
    assert claim(conn) == {}

    woken = call(conn, "emit_event", event="e", payload=Jsonb(1))
    call(conn, "emit_event", event="e", payload=Jsonb(2))

    assert woken == [{"emit_event": 1}]
    ((job_id, token),) = claim(conn).items()
    arrived = {"state": "ARRIVED", "payload": 1}
    assert call(conn, "await_event", job_id=job_id, token=token, **wait) == [arrived]
    assert call(conn, "await_event", job_id=job_id, token=token, **wait) == [arrived]
    assert conn.execute("select count(*) from rota.event_waits").fetchone() == (0,)


def test_a_wait_for_an_event_has_an_end(conn, clock):
    pair = running(conn)
    wait = {"step": "s", "event": "e", "timeout": HOUR}
    call(conn, "await_event", **pair, **wait)
    clock.advance(HOUR)
    ((job_id, token),) = claim(conn).items()

    answer = call(conn, "await_event", job_id=job_id, token=token, **wait)

    assert answer == [{"state": "TIMED_OUT", "payload": None}]
    call(conn, "emit_event", event="e", payload=Jsonb(1))
    assert call(conn, "await_event", job_id=job_id, token=token, **wait) == answer


def test_an_event_does_not_move_a_job_that_has_gone_on_otherwise(conn, clock):
    pair = running(conn)
    call(conn, "await_event", **pair, step="s", event="e", timeout=HOUR)
    clock.advance(HOUR)
    ((job_id, token),) = claim(conn).items()
    call(conn, "finish_job", job_id=job_id, token=token, error="boom", retry_in=HOUR)

    woken = call(conn, "emit_event", event="e")

    assert woken == [{"emit_event": 0}]
    assert claim(conn) == {}
