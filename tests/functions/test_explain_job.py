"""Why a job does not run: every reason is brought about for real, and explain_job names it."""

import re
import shlex
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.db.gateway import call
from rota.db.version import FOLDER
from rota.testing import Clock
from tests.conftest import SERVER_VERSION, TEST_SETTINGS

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
WORKER = {"host": "h", "pid": 1, "version": "v"}
PAGE = FOLDER.parent / "docs" / "operations.md"
SOURCES = (FOLDER / "functions" / "diagnosis").glob("*explain*.sql")
STATES = {"ONE_TIME", "WAITING", "SCHEDULED", "FAILED", "CANCELLED", "COMPLETED"}


def enqueue(conn, **arguments):
    (made,) = call(conn, "enqueue_job", **{"task": "t", **arguments})
    return made["job_id"]


def serve(conn, worker="w", queues=("default",), concurrency=2, **arguments):
    """Have a worker say that it is there."""
    call(
        conn,
        "announce_worker",
        worker=worker,
        queues=list(queues),
        concurrency=concurrency,
        **{**WORKER, **arguments},
    )


def claim(conn, **arguments):
    (job,) = call(conn, "claim_next_job", **{"worker": "w", **arguments})
    return {"job_id": job["id"], "token": job["token"]}


def explain(conn, job_id):
    """Return what is said of a job, by code."""
    rows = call(conn, "explain_job", job_id=job_id)
    assert [row["blocks"] for row in rows] == sorted((r["blocks"] for r in rows), reverse=True)
    assert len({row["code"] for row in rows}) == len(rows)
    return {row["code"]: row for row in rows}


class World:
    """A database, its clock, and sessions that a scene leaves open."""

    def __init__(self, conn, clock, connect):
        self.conn, self.clock, self.connect = conn, clock, connect
        self.afterwards = ExitStack()


@pytest.fixture
def world(conn, clock, connect):
    world = World(conn, clock, connect)
    with world.afterwards:
        yield world


def unknown(world):
    return enqueue(world.conn) + 1


def ended(world):
    job_id = enqueue(world.conn)
    error = "Traceback:\n  line 1\nConnectionError: refused"
    call(world.conn, "finish_job", **claim(world.conn), error=error, retry=False)
    return job_id


def workflow(conn, *jobs):
    """Enqueue jobs that depend on one another; return their ids."""
    rows = call(conn, "enqueue_workflow", jobs=Jsonb([{"task": "t", **job} for job in jobs]))
    return [row["job_id"] for row in rows]


def waits_for_parents(world):
    """One of three parents has ended, one runs."""
    *parents, child = workflow(world.conn, {}, {}, {}, {"depends_on": "all"})
    call(world.conn, "finish_job", **claim(world.conn))
    assert claim(world.conn)["job_id"] == parents[1]
    return child


def lost_parents(world):
    _, child = workflow(world.conn, {}, {"depends_on": "all"})
    world.conn.execute("delete from rota.job_dependencies")
    world.afterwards.callback(world.conn.execute, "delete from rota.job_waits")
    world.afterwards.callback(world.conn.execute, "delete from rota.live_jobs")
    return child


def sleeps(world):
    job_id = enqueue(world.conn)
    call(world.conn, "sleep_job", **claim(world.conn), step="nap", delay=HOUR)
    return job_id


def waits_for_event(world):
    job_id = enqueue(world.conn)
    call(world.conn, "await_event", **claim(world.conn), step="pay", event="paid:7", timeout=HOUR)
    return job_id


def for_later(world):
    return enqueue(world.conn, run_at="2040-01-01 00:00+00")


def backoff(world):
    job_id = enqueue(world.conn)
    call(world.conn, "finish_job", **claim(world.conn), error="boom", retry_in=MINUTE)
    return job_id


def schedule(world, **arguments):
    given = {"task": "t", "every": HOUR, "name": "hourly", **arguments}
    return call(world.conn, "schedule_job", **given)[0]["job_id"]


def slot(world):
    return schedule(world, starts_at="2040-01-01 00:00+00")


def paused_schedule(world):
    job_id = schedule(world)
    call(world.conn, "pause_schedule", name="hourly")
    return job_id


def unsettled(world):
    """The server does not know the zone of a schedule any more."""
    job_id = schedule(world, every=None, cron="* * * * *", time_zone="Europe/Berlin")
    world.clock.advance(MINUTE)
    held = claim(world.conn)
    world.conn.execute("update rota.schedules set time_zone = 'Mars/Olympus'")
    call(world.conn, "finish_job", **held)
    world.afterwards.callback(
        world.conn.execute, "delete from rota.live_jobs; delete from rota.schedules"
    )
    return job_id


def paused_queue(world):
    job_id = enqueue(world.conn)
    call(world.conn, "pause_queue", queue="default")
    return job_id


def no_lane(world):
    job_id = enqueue(world.conn, priority=7)
    world.conn.execute("delete from rota.lanes where priority = 7")
    world.afterwards.callback(
        world.conn.execute, "insert into rota.lanes (queue, priority) values ('default', 7)"
    )
    return job_id


def limited(world, count=3, **limits):
    """Jobs of key acme in a queue with limits, one of them claimed; the last is returned."""
    serve(world.conn, concurrency=10)
    call(world.conn, "configure_queue", queue="default", **limits)
    jobs = [enqueue(world.conn, key="acme") for _ in range(count)]
    assert claim(world.conn)["job_id"] == jobs[0]
    return jobs[-1]


def queue_full(world):
    return limited(world, max_running=1)


def queue_window(world):
    return limited(world, max_starts=1, starts_period=MINUTE)


def key_full(world):
    return limited(world, key_max_running=1)


def key_window(world):
    return limited(world, key_max_starts=1, key_starts_period=MINUTE)


def in_order(world):
    return limited(world, key_in_order=True)


def limit_not_settled(world):
    """A claim that began before the limit was set is open still."""
    serve(world.conn)
    call(world.connect(autocommit=False), "claim_next_job")
    call(world.conn, "configure_queue", queue="default", max_running=1)
    return enqueue(world.conn)


def lost_turn(world):
    job_id = enqueue(world.conn, key="acme")
    world.conn.execute("delete from rota.turns")
    world.afterwards.callback(world.conn.execute, "delete from rota.live_jobs")
    return job_id


def keys_take_turns(world):
    serve(world.conn)
    for key in ("globex", "initech"):
        enqueue(world.conn, key=key)
    enqueue(world.conn, key="vandelay", priority=5)
    world.clock.advance(SECOND)
    return enqueue(world.conn, key="acme")


def no_worker(world):
    serve(world.conn, queues=["other"])
    return enqueue(world.conn)


def no_handler(world):
    serve(world.conn, tasks=["another"])
    return enqueue(world.conn)


def locked(world):
    job_id = enqueue(world.conn)
    holder = world.connect(autocommit=False, application_name="the holder")
    holder.execute("select from rota.live_jobs for update")
    return job_id


def busy(world):
    serve(world.conn)
    for _ in range(2):
        enqueue(world.conn)
        claim(world.conn)
    return enqueue(world.conn)


def overrun(world):
    serve(world.conn, overrun=2)
    return enqueue(world.conn)


def behind_others(world):
    enqueue(world.conn, priority=5)
    enqueue(world.conn)
    return enqueue(world.conn)


def old_snapshot(world):
    serve(world.conn)
    job_id = enqueue(world.conn)
    holder = world.connect(autocommit=False)
    holder.execute("set transaction isolation level repeatable read")
    holder.execute("select from rota.live_jobs")
    world.clock.advance(70 * SECOND)
    return job_id


def runs(world):
    job_id = enqueue(world.conn)
    claim(world.conn)
    return job_id


def cancel_pending(world):
    job_id = runs(world)
    call(world.conn, "cancel_job", job_id=job_id, reason="enough")
    return job_id


def over_timeout(world):
    job_id = enqueue(world.conn, timeout=SECOND)
    claim(world.conn, lease=HOUR)
    world.clock.advance(MINUTE)
    return job_id


def lease_over(world):
    job_id = runs(world)
    world.clock.advance(HOUR)
    return job_id


def read_only(world):
    job_id = enqueue(world.conn)
    name = world.conn.info.dbname
    world.conn.execute(f'alter database "{name}" set default_transaction_read_only = on')
    world.conn = world.connect()
    return job_id


def next_one(world):
    serve(world.conn)
    return enqueue(world.conn)


# Each reason, whether it blocks, and what its words have in them.
REASONS = {
    "UNKNOWN": (unknown, True, "the last id that was given is"),
    "ENDED": (ended, True, "FAILED, in attempt 1 of 4: ConnectionError: refused"),
    "WAITS_FOR_PARENTS": (waits_for_parents, True, "It waits for 2 of 3 parents: jobs "),
    "LOST_PARENTS": (lost_parents, True, "none that lives leads to it"),
    "SLEEPS": (sleeps, True, "(step nap)"),
    "WAITS_FOR_EVENT": (waits_for_event, True, "It waits for event paid:7, until "),
    "TIME": (for_later, True, "2040-01-01 00:00:00+00"),
    "BACKOFF": (backoff, True, "Attempt 1 of 4 did not succeed"),
    "SLOT": (slot, True, "Its next run is of 2040-01-01 00:00:00+00"),
    "SCHEDULE_PAUSED": (paused_schedule, True, "Its schedule was paused 0 s ago"),
    "UNSETTLED": (unsettled, True, "Mars/Olympus"),
    "QUEUE_PAUSED": (paused_queue, True, "queue default was paused 0 s ago"),
    "NO_LANE": (no_lane, True, "queue default and priority 7"),
    "QUEUE_FULL": (queue_full, True, "Queue default runs 1 of 1: job "),
    "QUEUE_WINDOW": (queue_window, True, "Queue default started 1 of 1 in 00:01:00; the next may"),
    "KEY_FULL": (key_full, True, "Key acme runs 1 of 1: job "),
    "KEY_WINDOW": (key_window, True, "Key acme started 1 of 1 in 00:01:00; the next may start at"),
    "IN_ORDER": (in_order, True, "of its key acme, which runs: they run one by one"),
    "LIMIT_NOT_SETTLED": (limit_not_settled, True, "until 1 transactions that were open then"),
    "LOST_TURN": (lost_turn, True, "No turn leads to it"),
    "KEYS_TAKE_TURNS": (
        keys_take_turns,
        False,
        "1 keys of a higher priority and 2 keys of its priority that are ready for longer",
    ),
    "NO_WORKER": (no_worker, True, "queue default; those that are alive serve other."),
    "NO_HANDLER": (no_handler, True, "has a handler for task t"),
    "LOCKED": (locked, True, "the holder), idle in transaction, holds its row"),
    "OVERRUN": (overrun, True, "2 by handlers that go on"),
    "BUSY": (busy, False, "All 2 places of the 1 workers of queue default"),
    "BEHIND_OTHERS": (behind_others, False, "1 due jobs of a higher priority and 1 earlier"),
    "OLD_SNAPSHOT": (old_snapshot, False, "keeps a snapshot that is 7"),
    "RUNNING": (runs, False, "on worker w, attempt 1 of 4"),
    "CANCEL_PENDING": (cancel_pending, False, "asked to stop 0 s ago"),
    "OVER_TIMEOUT": (over_timeout, False, "longer than its timeout of 00:00:01"),
    "LEASE_OVER": (lease_over, True, "Its worker w is gone: the lease ran out 59 min ago"),
    "READ_ONLY": (read_only, True, "default_transaction_read_only"),
    "NEXT": (next_one, False, "the next claim from queue default takes it"),
}


@pytest.mark.parametrize("code", REASONS)
def test_each_reason_is_named_when_it_is_so(world, code):
    scene, blocks, words = REASONS[code]
    job_id = scene(world)

    said = explain(world.conn, job_id)

    assert code in said
    assert said[code]["blocks"] is blocks
    assert words in said[code]["reason"]
    assert "\n" not in said[code]["reason"]


def test_the_manual_has_a_row_for_each_reason_and_each_is_tried_here():
    written = {
        code
        for path in SOURCES
        for code in re.findall(r"'([A-Z]{2}[A-Z_]+)'", re.sub(r"--.*", "", path.read_text()))
    } - STATES
    section = PAGE.read_text().split("\n## A job that does not move\n")[1].split("\n## ")[0]

    assert written == set(REASONS)
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", section, re.M)) == set(REASONS)


def test_of_parents_those_are_named_that_have_not_ended(world):
    child = waits_for_parents(world)
    first, second, third = range(child - 3, child)

    said = explain(world.conn, child)["WAITS_FOR_PARENTS"]

    assert said["reason"] == (
        f"It waits for 2 of 3 parents: jobs {second} (RUNNING), {third} (SCHEDULED)."
    )
    assert said["remedy"].endswith(f"explain_job({second})")
    assert said["evidence"] == {
        "parents": 3,
        "open": 2,
        "jobs": [{"id": second, "state": "RUNNING"}, {"id": third, "state": "SCHEDULED"}],
    }
    assert not {"TIME", "SCHEDULE_PAUSED"} & set(explain(world.conn, child))
    assert explain(world.conn, first)["ENDED"]["reason"].endswith("is COMPLETED.")


def test_of_many_parents_ten_are_named(world):
    *_, child = workflow(world.conn, *[{}] * 11, {"depends_on": "all"})

    said = explain(world.conn, child)["WAITS_FOR_PARENTS"]

    assert said["reason"].startswith("It waits for 11 of 11 parents: jobs ")
    assert said["reason"].endswith(f"{child - 2} (SCHEDULED), ....")
    assert len(said["evidence"]["jobs"]) == 10


def test_a_parent_that_is_retried_after_it_was_settled_is_not_waited_for(world):
    fails, runs_, child = workflow(
        world.conn, {}, {}, {"depends_on": "all", "if_parent_fails": "run"}
    )
    call(world.conn, "finish_job", **claim(world.conn), error="x", retry=False)
    call(world.conn, "retry_job", job_id=fails)

    said = explain(world.conn, child)["WAITS_FOR_PARENTS"]

    assert said["reason"] == f"It waits for 1 of 2 parents: job {runs_} (SCHEDULED)."


def test_a_parent_behind_a_wall_is_an_id_and_a_state(world):
    conn = world.conn
    conn.execute("drop role if exists rota_test_below")
    conn.execute("create role rota_test_below in role rota_reader")
    world.afterwards.callback(conn.execute, "drop role rota_test_below")
    own, foreign, child = workflow(
        conn,
        {"queue": "acme.a"},
        {"queue": "globex.secret", "task": "secret"},
        {"queue": "acme.a", "depends_on": "all"},
    )
    call(conn, "finish_job", **claim(conn, queues=["acme.a"]))
    call(conn, "wall", principal="rota_test_below", queue_pattern="acme.*")
    tenant = world.connect(role="rota_test_below")

    waits = explain(tenant, child)["WAITS_FOR_PARENTS"]
    failed = claim(conn, queues=["globex.secret"])
    call(conn, "finish_job", **failed, error="secret", retry=False)
    down = explain(tenant, child)["ENDED"]

    assert waits["reason"] == f"It waits for 1 of 2 parents: job {foreign} (SCHEDULED)."
    assert "explain_job" not in waits["remedy"]
    assert f"job {foreign}, on which it depends, did not complete (FAILED)" in down["reason"]
    assert "retry_job" not in down["remedy"]
    assert "secret" not in repr([waits, down])
    assert explain(tenant, own)["ENDED"]["reason"].endswith("is COMPLETED.")


@pytest.mark.parametrize("delay", [timedelta(milliseconds=1500), HOUR, 90 * timedelta(days=1)])
def test_a_job_sleeps_until_it_is_due(world, delay):
    job_id = enqueue(world.conn)
    call(world.conn, "sleep_job", **claim(world.conn), step="nap", delay=delay)
    (run_at,) = world.conn.execute("select run_at from rota.jobs").fetchone()

    world.clock.set(run_at - SECOND)
    assert "SLEEPS" in explain(world.conn, job_id)
    assert not {"TIME", "BACKOFF"} & set(explain(world.conn, job_id))

    world.clock.set(run_at)
    assert "SLEEPS" not in explain(world.conn, job_id)


@pytest.mark.parametrize("scene", [sleeps, waits_for_event])
def test_after_an_event_or_a_nap_a_backoff_is_a_backoff(world, scene):
    job_id = scene(world)
    world.clock.advance(HOUR + MINUTE)
    call(world.conn, "finish_job", **claim(world.conn), error="boom", retry_in=HOUR)

    said = explain(world.conn, job_id)

    assert "BACKOFF" in said
    assert not {"SLEEPS", "WAITS_FOR_EVENT"} & set(said)


def test_a_step_may_record_anything_and_is_no_sleep_for_that(world):
    job_id = enqueue(world.conn)
    held = claim(world.conn)
    for number, result in enumerate(
        ({"sleep_until": "never"}, {"sleep_until": 7}, ["sleep_until"])
    ):
        call(world.conn, "record_step", **held, step=f"{number}", result=Jsonb(result))
    call(world.conn, "release_job", **held, delay=HOUR)

    assert "TIME" in explain(world.conn, job_id)


def test_a_job_that_went_down_with_a_parent_says_which_and_what_to_retry(world):
    top, middle, child = workflow(
        world.conn, {}, {"depends_on": "previous"}, {"depends_on": "previous"}
    )
    call(world.conn, "finish_job", **claim(world.conn), error="boom", retry=False)

    below, said = explain(world.conn, middle)["ENDED"], explain(world.conn, child)["ENDED"]

    assert f"job {top}, on which it depends, did not complete (FAILED)" in below["reason"]
    assert f"job {middle}, on which it depends, did not complete" in said["reason"]
    assert f"it went down with job {top} (FAILED)" in said["reason"]
    assert said["evidence"] | {"ended_by": middle, "went_down_with": top} == said["evidence"]
    assert said["remedy"].endswith(f": select retry_job({top})")
    with pytest.raises(psycopg.Error, match="retry"):
        call(world.conn, "retry_job", job_id=child)
    call(world.conn, "retry_job", job_id=top)
    assert "WAITS_FOR_PARENTS" in explain(world.conn, child)


def test_a_job_that_was_cancelled_itself_is_retried_itself(world):
    _, child = workflow(world.conn, {}, {"depends_on": "previous"})
    call(world.conn, "cancel_job", job_id=child, reason="enough")

    said = explain(world.conn, child)["ENDED"]

    assert said["reason"].endswith("is CANCELLED: enough")
    assert said["remedy"] == f"To run it again: select retry_job({child})"


@pytest.mark.parametrize("code", ["LOCKED", "RUNNING", "NEXT", "ENDED", "UNKNOWN"])
def test_to_explain_a_job_locks_no_row_waits_for_none_and_writes_nothing(world, code):
    job_id = REASONS[code][0](world)
    holder = world.connect(autocommit=False)
    if code != "LOCKED":
        holder.execute("select from rota.live_jobs for update")
    asker = world.connect(autocommit=False)
    asker.execute("set lock_timeout = '1ms'")

    assert explain(asker, job_id)

    kinds = asker.execute(
        "select distinct mode from pg_locks"
        " where pid = pg_backend_pid() and locktype <> 'virtualxid'"
    ).fetchall()
    assert kinds == [("AccessShareLock",)]
    assert asker.execute("select pg_current_xact_id_if_assigned()").fetchone() == (None,)


def test_a_job_that_needs_nothing_is_next_and_nothing_else_is_said(world):
    assert [*explain(world.conn, next_one(world))] == ["NEXT"]


def test_a_queue_that_is_worked_in_sql_has_somebody_there(world):
    runs(world)
    job_id = enqueue(world.conn)

    assert [*explain(world.conn, job_id)] == ["NEXT"]

    world.clock.advance(HOUR)
    assert "NO_WORKER" in explain(world.conn, job_id)


def test_a_full_queue_and_a_full_key_name_the_jobs_that_run_and_it_is_so(world):
    for limits, code in (
        ({"max_running": 12}, "QUEUE_FULL"),
        ({"key_max_running": 12}, "KEY_FULL"),
    ):
        queue = code.lower()
        call(world.conn, "configure_queue", queue=queue, **limits)
        jobs = [enqueue(world.conn, queue=queue, key="acme") for _ in range(13)]
        for _ in range(11):
            claim(world.conn, queues=[queue])

        assert code not in explain(world.conn, jobs[-1])
        claim(world.conn, queues=[queue])

        said = explain(world.conn, jobs[-1])[code]
        assert said["evidence"]["jobs"] == jobs[:10]
        assert f"runs 12 of 12: jobs {', '.join(map(str, jobs[:10]))}, ...." in said["reason"]
        assert call(world.conn, "claim_next_job", queues=[queue]) == []
        world.conn.execute(
            re.search(r"select (.*)", said["remedy"])[0].replace("select ", "select rota.")
        )
        assert code not in explain(world.conn, jobs[-1])
        assert claim(world.conn, queues=[queue])["job_id"] == jobs[-1]


@pytest.mark.parametrize("scene", [queue_window, key_window])
def test_a_window_opens_when_it_is_said_to_and_not_before(world, scene):
    job_id = scene(world)
    code = scene.__name__.upper()
    (opens_at,) = world.conn.execute(
        "select (evidence->>'opens_at')::timestamptz from rota.explain_job(%s) where code = %s",
        [job_id, code],
    ).fetchone()

    world.clock.set(opens_at - SECOND / 2)
    assert call(world.conn, "claim_next_job") == []
    assert code in explain(world.conn, job_id)

    world.clock.set(opens_at)
    assert code not in explain(world.conn, job_id)
    assert call(world.conn, "claim_next_job") != []


def test_a_key_without_room_does_not_hold_up_another_nor_what_has_none(world):
    key_full(world)
    others = [enqueue(world.conn, key="globex"), enqueue(world.conn)]

    for job_id in others:
        assert [*explain(world.conn, job_id)] == ["NEXT"]


def test_of_a_full_key_without_order_no_order_is_told(world):
    assert "IN_ORDER" not in explain(world.conn, key_full(world))


def test_an_exception_of_a_key_is_what_holds_for_it(world):
    job_id = key_full(world)

    call(world.conn, "configure_key", queue="default", key="acme", max_running=2)

    assert "KEY_FULL" not in explain(world.conn, job_id)


def test_what_waits_for_a_job_that_backs_off_is_told_so_and_that_job_is_not(world):
    serve(world.conn)
    call(world.conn, "configure_queue", queue="default", key_in_order=True)
    first, second = (enqueue(world.conn, key="acme") for _ in range(2))
    call(world.conn, "finish_job", **claim(world.conn), error="boom", retry_in=MINUTE)

    said = explain(world.conn, second)["IN_ORDER"]

    assert said["reason"].startswith(f"It waits for job {first} of its key acme, which has begun")
    assert said["evidence"]["job"] == first
    assert [*explain(world.conn, first)] == ["BACKOFF"]


def test_a_new_limit_names_the_sessions_it_waits_for_until_they_end(world):
    holder = world.connect(autocommit=False)
    call(holder, "claim_next_job")
    call(world.conn, "configure_queue", queue="default", max_running=1)
    job_id = enqueue(world.conn)
    before = explain(world.conn, job_id)["LIMIT_NOT_SETTLED"]
    assert call(world.conn, "claim_next_job") == []
    later = world.connect(autocommit=False)
    later.execute("select from rota.lanes")

    after = explain(world.conn, job_id)["LIMIT_NOT_SETTLED"]

    assert before["evidence"]["pids"] == after["evidence"]["pids"] == [holder.info.backend_pid]
    holder.rollback()
    assert "LIMIT_NOT_SETTLED" not in explain(world.conn, job_id)
    assert claim(world.conn)["job_id"] == job_id


def test_a_new_limit_that_cannot_count_what_runs_says_so(world):
    enqueue(world.conn)
    claim(world.conn)
    holder = world.connect(autocommit=False)
    holder.execute("select from rota.live_jobs for update")
    call(world.conn, "configure_queue", queue="default", max_running=2)
    job_id = enqueue(world.conn)
    assert call(world.conn, "claim_next_job") == []

    assert "cannot be counted" in explain(world.conn, job_id)["LIMIT_NOT_SETTLED"]["reason"]

    holder.rollback()
    assert claim(world.conn)["job_id"] == job_id


def test_a_lane_of_keys_that_is_missing_is_told_from_that_of_jobs_without(world):
    enqueue(world.conn)
    job_id = enqueue(world.conn, key="acme")
    world.conn.execute("delete from rota.lanes where keyed")
    world.afterwards.callback(world.conn.execute, "delete from rota.live_jobs")

    assert "priority 0 with a key" in explain(world.conn, job_id)["NO_LANE"]["reason"]


def test_who_is_behind_a_wall_is_told_of_a_new_limit_without_the_sessions(world):
    conn = world.conn
    conn.execute("drop role if exists rota_test_limited")
    conn.execute("create role rota_test_limited in role rota_reader")
    world.afterwards.callback(conn.execute, "drop role rota_test_limited")
    holder = world.connect(autocommit=False)
    call(holder, "claim_next_job")
    call(conn, "configure_queue", queue="acme.mail", max_running=1)
    job_id = enqueue(conn, queue="acme.mail")
    call(conn, "wall", principal="rota_test_limited", queue_pattern="acme.*")

    said = explain(world.connect(role="rota_test_limited"), job_id)["LIMIT_NOT_SETTLED"]

    assert said["evidence"] == {"queue": "acme.mail", "transactions": 1}
    assert str(holder.info.backend_pid) not in said["reason"]


def test_a_worker_that_went_silent_does_not_serve(world):
    job_id = next_one(world)

    world.clock.advance(91 * SECOND)

    assert "NO_WORKER" in explain(world.conn, job_id)


def test_nobody_is_said_to_be_busy_where_a_worker_does_not_tell_its_places(world):
    job_id = busy(world)
    serve(world.conn, worker="over http", concurrency=None, version=None)

    assert [*explain(world.conn, job_id)] == ["NEXT"]


def test_several_causes_are_all_named_what_blocks_first(world):
    job_id = enqueue(world.conn, run_at="2040-01-01")
    call(world.conn, "pause_queue", queue="default")

    assert [*explain(world.conn, job_id)] == ["TIME", "QUEUE_PAUSED", "NO_WORKER"]


def test_a_job_that_was_handed_back_for_want_of_a_handler_is_told_from_one_that_failed(world):
    job_id = enqueue(world.conn)
    held = claim(world.conn)
    pair = {"job_ids": [held["job_id"]], "tokens": [held["token"]]}
    call(world.conn, "release_unhandled_jobs", **pair, delay=MINUTE)

    said = explain(world.conn, job_id)

    assert "handed it back; it is tried again in 60 s" in said["NO_HANDLER"]["reason"]
    assert not {"TIME", "BACKOFF"} & set(said)


def test_a_job_that_its_handler_put_off_is_told_from_one_that_was_meant_for_later(world):
    job_id = enqueue(world.conn)
    call(world.conn, "release_job", **claim(world.conn), delay=HOUR)

    assert "It was put off" in explain(world.conn, job_id)["TIME"]["reason"]


def test_a_remedy_that_is_copied_into_a_shell_says_no_more_than_the_name_of_a_queue(world):
    for queue in ("x; rm -rf ~", "$(reboot)", "it's", "-x", "post.eu-1"):
        job_id = enqueue(world.conn, queue=queue)

        remedy = explain(world.conn, job_id)["NO_WORKER"]["remedy"]

        assert shlex.split(remedy, comments=True) == ["rota", "worker", "--queues", queue]
        assert ("'" in remedy) == (queue != "post.eu-1")


def test_a_schedule_without_a_name_gets_no_remedy_that_needs_one(world):
    job_id = schedule(world, name=None, starts_at="2040-01-01")

    assert explain(world.conn, job_id)["SLOT"]["remedy"] is None


def test_a_triggered_run_of_a_paused_schedule_is_not_held_up_by_the_pause(world):
    serve(world.conn)
    job_id = paused_schedule(world)
    call(world.conn, "trigger_schedule", name="hourly")

    assert [*explain(world.conn, job_id)] == ["NEXT"]


@pytest.mark.parametrize("lock", ["update", "no key update", "share"])
def test_who_locks_a_row_that_waits_is_named(world, lock):
    job_id = next_one(world)
    holder = world.connect(autocommit=False)
    holder.execute(f"select from rota.live_jobs for {lock}")

    said = explain(world.conn, job_id)["LOCKED"]

    assert said["evidence"]["pid"] == holder.info.backend_pid
    assert said["remedy"].endswith(f"pg_terminate_backend({holder.info.backend_pid})")
    holder.rollback()
    assert [*explain(world.conn, job_id)] == ["NEXT"]


def test_what_is_said_is_the_same_in_every_session(world):
    job_id = over_timeout(world)
    other = world.connect()
    other.execute("set intervalstyle = iso_8601; set datestyle = 'SQL, DMY'; set time zone 'UTC'")
    world.conn.execute("set time zone 'UTC'")

    said = explain(world.conn, job_id)["OVER_TIMEOUT"]

    assert explain(other, job_id)["OVER_TIMEOUT"]["evidence"] == said["evidence"]
    assert "00:00:01" in explain(other, job_id)["OVER_TIMEOUT"]["reason"]


def test_each_of_several_who_lock_a_row_is_named(world):
    job_id = next_one(world)
    holders = [world.connect(autocommit=False) for _ in range(2)]
    for holder in holders:
        holder.execute("select from rota.live_jobs for share")

    rows = call(world.conn, "explain_job", job_id=job_id)

    assert {row["code"] for row in rows} == {"LOCKED"}
    assert {row["evidence"]["pid"] for row in rows} == {h.info.backend_pid for h in holders}


def test_who_locked_a_row_within_a_savepoint_is_named(world):
    job_id = next_one(world)
    for released in (False, True):
        holder = world.connect(autocommit=False)
        holder.execute("create temporary table something (n integer)")  # has an id already
        holder.execute("savepoint s")
        holder.execute("select from rota.live_jobs for update")
        if released:
            holder.execute("release savepoint s")

        said = explain(world.conn, job_id)["LOCKED"]

        assert said["evidence"]["pid"] == holder.info.backend_pid
        assert said["reason"].startswith("Perhaps session" if released else "Session")
        holder.rollback()


def test_a_foreign_key_that_is_being_written_is_not_said_to_block(world):
    job_id = next_one(world)
    world.conn.execute("create table notes (job_id bigint references rota.live_jobs (id))")
    writer = world.connect(autocommit=False)
    writer.execute("insert into notes values (%s)", [job_id])

    said = explain(world.conn, job_id)

    assert not said["LOCKED"]["blocks"]
    assert "perhaps only by a foreign key" in said["LOCKED"]["reason"]
    assert claim(world.conn)["job_id"] == job_id


def test_a_session_that_locks_other_jobs_is_not_blamed_for_this_one(world):
    other = enqueue(world.conn)
    holder = world.connect(autocommit=False)
    holder.execute("select from rota.live_jobs where id = %s for update", [other])

    assert "LOCKED" not in explain(world.conn, next_one(world))


def test_a_lock_on_what_runs_does_not_block_it_and_on_what_is_lost_does(world):
    job_id = runs(world)
    holder = world.connect(autocommit=False)
    holder.execute("select from rota.live_jobs for no key update")
    assert not explain(world.conn, job_id)["LOCKED"]["blocks"]

    world.clock.advance(HOUR)

    said = explain(world.conn, job_id)
    assert said["LOCKED"]["blocks"] and "it cannot be taken back" in said["LOCKED"]["reason"]
    assert call(world.conn, "recover_jobs") == [{"recover_jobs": 0}]


def test_what_runs_is_read_off_a_census_that_is_new_and_counted_else(world):
    job_id = busy(world)
    call(world.conn, "take_census")
    world.conn.execute("update rota.census_workers set running = 1")

    by_the_census = explain(world.conn, job_id)
    world.clock.advance(31 * SECOND)

    assert "BUSY" not in by_the_census
    assert "BUSY" in explain(world.conn, job_id)


def test_a_queue_that_somebody_works_in_sql_is_served_by_what_he_runs_at_once(world):
    enqueue(world.conn)
    job_id = enqueue(world.conn)
    call(world.conn, "take_census")
    claim(world.conn)

    assert "NO_WORKER" not in explain(world.conn, job_id)


def test_who_is_behind_a_wall_gets_the_reasons_of_his_own_jobs_and_nobody_s_name(world):
    conn = world.conn
    conn.execute("drop role if exists rota_test_explained")
    conn.execute("create role rota_test_explained in role rota_reader")
    world.afterwards.callback(conn.execute, "drop role rota_test_explained")
    own, foreign = enqueue(conn, queue="acme.mail"), enqueue(conn, queue="globex.mail")
    serve(conn, worker="globex.worker", queues=["globex.mail"])
    call(conn, "wall", principal="rota_test_explained", queue_pattern="acme.*")
    tenant = world.connect(role="rota_test_explained")
    holder = world.connect(autocommit=False, application_name="globex")
    holder.execute("select from rota.live_jobs for update")

    rows = {job_id: call(tenant, "explain_job", job_id=job_id) for job_id in (own, foreign, 10**12)}

    assert {row["code"] for row in rows[own]} == {"LOCKED", "NO_WORKER"}
    assert "globex" not in repr(rows) and str(holder.info.backend_pid) not in repr(rows)
    for row, job_id in ((rows[foreign], foreign), (rows[10**12], 10**12)):
        assert [(r["code"], r["reason"], r["evidence"]) for r in row] == [
            ("UNKNOWN", f"There is no job {job_id}.", None)
        ]


@pytest.fixture
def own_database(server_folder: Path):
    """A database on a server that allows prepared transactions."""
    settings = TEST_SETTINGS | {"max_prepared_transactions": "5"}
    with Cluster(server_folder / "pg", SERVER_VERSION, settings) as server:
        deploy(server.url())
        with psycopg.connect(server.url(), autocommit=True) as conn:
            Clock(conn)
            yield server.url(), conn


def test_a_prepared_transaction_that_was_forgotten_is_named_with_its_remedy(own_database):
    url, conn = own_database
    job_id = enqueue(conn)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("begin")
        other.execute("select from rota.live_jobs for update")
        other.execute("prepare transaction 'somebody''s'")

    said = explain(conn, job_id)["LOCKED"]

    assert said["blocks"] and said["evidence"]["gid"] == "somebody's"
    assert "prepared transaction 'somebody''s' of postgres" in said["reason"]
    assert call(conn, "claim_next_job") == []
    conn.execute("rollback prepared 'somebody''s'")
    assert "LOCKED" not in explain(conn, job_id)
