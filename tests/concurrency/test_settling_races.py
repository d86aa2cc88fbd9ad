"""Two sessions at the two ends of an edge, or on both sides of an event."""

from datetime import timedelta

from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.concurrency.sessions import forget_cursors

HOUR = timedelta(hours=1)


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


def states(conn, jobs):
    rows = conn.execute("select id, state from rota.jobs where id = any(%s)", [[*jobs.values()]])
    found = dict(rows.fetchall())
    return {node: found.get(job_id) for node, job_id in jobs.items()}


def ended_by(conn, job_id):
    return conn.execute(
        "select ended_by from rota.workflow_jobs where job_id = %s", [job_id]
    ).fetchone()[0]


def test_of_two_last_parents_the_second_frees_the_child(conn, session):
    jobs = workflow(conn, ("a", []), ("b", []), ("c", ["a", "b"]))
    held = claim(conn)
    first, second = session(), session()
    first.begin()
    first.call("finish_job", job_id=jobs["a"], token=held[jobs["a"]])

    late = second.start("finish_job", job_id=jobs["b"], token=held[jobs["b"]])

    assert late.waits()
    assert states(conn, jobs)["c"] == "WAITING"
    first.commit()
    late.answer()
    assert states(conn, jobs)["c"] == "SCHEDULED"


def test_when_the_first_thinks_better_of_it_the_child_waits_on(conn, session):
    jobs = workflow(conn, ("a", []), ("b", []), ("c", ["a", "b"]))
    held = claim(conn)
    first, second = session(), session()
    first.begin()
    first.call("finish_job", job_id=jobs["a"], token=held[jobs["a"]])
    late = second.start("finish_job", job_id=jobs["b"], token=held[jobs["b"]])
    assert late.waits()

    first.rollback()

    late.answer()
    assert states(conn, jobs)["c"] == "WAITING"


def test_of_two_parents_that_fail_one_takes_the_child_down(conn, session):
    jobs = workflow(conn, ("a", []), ("b", []), ("c", ["a", "b"]))
    held = claim(conn)
    first, second = session(), session()
    first.begin()
    fate = {"error": "boom", "retry": False}
    first.call("finish_job", job_id=jobs["b"], token=held[jobs["b"]], **fate)
    late = second.start("finish_job", job_id=jobs["a"], token=held[jobs["a"]], **fate)
    assert late.waits()

    first.commit()

    late.answer()
    assert states(conn, jobs)["c"] == "CANCELLED"
    assert ended_by(conn, jobs["c"]) == jobs["b"]


def test_a_finish_waits_for_who_adds_a_child_and_settles_it(conn, session):
    jobs = workflow(conn, ("a", []))
    held = claim(conn)
    first, second = session(), session()
    first.begin()
    added = workflow(first.conn, ("b", [jobs["a"]]))

    late = second.start("finish_job", job_id=jobs["a"], token=held[jobs["a"]])

    assert late.waits()
    first.commit()
    late.answer()
    assert states(conn, added) == {"b": "SCHEDULED"}


def test_who_adds_a_child_to_a_job_that_fails_meanwhile_is_refused(conn, session):
    jobs = workflow(conn, ("a", []))
    held = claim(conn)
    first, second = session(), session()
    first.begin()
    first.call("finish_job", job_id=jobs["a"], token=held[jobs["a"]], error="boom", retry=False)

    late = second.start(
        "enqueue_workflow",
        jobs=Jsonb([{"task": "b", "depends_on": [jobs["a"]], "if_parent_fails": "run"}]),
    )

    assert late.waits()
    first.commit()
    assert [row["state"] for row in late.answer()] == ["SCHEDULED"]


def test_who_adds_a_child_to_a_job_that_comes_back_holds_it(conn, session):
    jobs = workflow(conn, ("a", []), ("x", ["a"], {"if_parent_fails": "run"}))
    held = claim(conn)
    (token,) = held.values()
    first, second, third = session(), session(), session()
    third.call("finish_job", job_id=jobs["a"], token=token, error="boom", retry=False)
    (waiting,) = claim(conn).items()
    third.call("finish_job", job_id=waiting[0], token=waiting[1])
    first.begin()
    first.call("retry_job", job_id=jobs["a"])
    second.begin()
    late = second.start("enqueue_workflow", jobs=Jsonb([{"task": "b", "depends_on": [jobs["a"]]}]))
    assert late.waits()

    first.commit()

    assert [row["state"] for row in late.answer()] == ["WAITING"]
    assert claim(conn) == {}, "the parent would end before its child is there"
    second.commit()
    assert [*claim(conn)] == [jobs["a"]]


def test_a_heartbeat_does_not_wait_for_who_adds_a_child(conn, session):
    jobs = workflow(conn, ("a", []))
    held = claim(conn)
    first, second = session(), session()
    first.begin()
    workflow(first.conn, ("b", [jobs["a"]]))

    beat = second.start("heartbeat_job", job_id=jobs["a"], token=held[jobs["a"]])

    assert not beat.waits()
    assert beat.answer()


def test_who_cancels_a_waiting_job_waits_for_history_before_he_holds_it(conn, session, connect):
    jobs = workflow(conn, ("a", []), ("b", ["a"]))
    guard, first = connect(autocommit=False), session()
    guard.execute("lock table rota.finished_jobs in access exclusive mode")

    cancel = first.start("cancel_job", job_id=jobs["b"])

    assert cancel.waits()
    free = conn.execute("select job_id from rota.job_waits for update skip locked").fetchall()
    guard.rollback()
    assert free == [(jobs["b"],)]
    assert cancel.answer()[0]["state"] == "CANCELLED"


def test_a_cancel_finds_a_job_that_is_freed_meanwhile(conn, session):
    jobs = workflow(conn, ("a", []), ("b", ["a"]), ("c", ["b"]))
    held = claim(conn)
    first, second, third = session(), session(), session()
    first.begin()
    first.call("finish_job", job_id=jobs["a"], token=held[jobs["a"]])
    second.begin()
    late = second.start("cancel_jobs", filter=Jsonb({"ids": [*jobs.values()]}), dry_run=False)
    assert late.waits()

    first.commit()

    assert late.answer()[0]["changed"] == 2
    assert not third.start("claim_next_job").answer()
    second.commit()
    assert states(conn, jobs) == {"a": "COMPLETED", "b": "CANCELLED", "c": "CANCELLED"}


def test_a_retry_takes_one_that_goes_down_meanwhile(conn, session):
    jobs = workflow(conn, ("a", []), ("b", []), ("c", ["a", "b"]), ("d", ["c"]))
    held = claim(conn)
    fate = {"error": "boom", "retry": False}
    first, second = session(), session()
    second.call("finish_job", job_id=jobs["a"], token=held[jobs["a"]], **fate)
    second.call("finish_job", job_id=jobs["b"], token=held[jobs["b"]], **fate)
    first.begin()
    first.call("retry_job", job_id=jobs["a"])  # c went down with it, and now with b

    late = second.start("retry_job", job_id=jobs["b"])

    assert late.waits()
    first.commit()
    assert late.answer()[0]["state"] == "SCHEDULED"
    assert set(states(conn, jobs).values()) == {"SCHEDULED", "WAITING"}


def test_an_event_waits_for_who_begins_to_wait_for_it(conn, session):
    for name in "ab":
        workflow(conn, (name, []))
    ((one, token), (other, others)) = claim(conn).items()
    wait = {"step": "s", "event": "e", "timeout": HOUR}
    first, second = session(), session()
    first.call("await_event", job_id=one, token=token, **wait)  # the event's row is there
    first.begin()
    first.call("await_event", job_id=other, token=others, **wait)

    emit = second.start("emit_event", event="e")

    assert emit.waits()
    first.commit()
    assert emit.answer() == [{"emit_event": 2}]
    assert {*claim(conn)} == {one, other}


def test_who_begins_to_wait_for_an_event_sees_the_one_that_is_emitted_meanwhile(conn, session):
    workflow(conn, ("a", []))
    ((job_id, token),) = claim(conn).items()
    first, second = session(), session()
    first.begin()
    first.call("emit_event", event="e", payload=Jsonb(1))

    late = second.start(
        "await_event", job_id=job_id, token=token, step="s", event="e", timeout=HOUR
    )

    assert late.waits()
    first.commit()
    assert late.answer() == [{"state": "ARRIVED", "payload": 1}]
