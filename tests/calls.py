"""A call of every function that somebody may call, in the cases that take it furthest.

Each is prepared by the owner of the database: what there has to be, and the arguments that fit it.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from rota.testing import Clock
from tests.concurrency.sessions import forget_cursors

Arguments = dict[str, Any]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HASH = b"h" * 32  # of a token


def enqueue(conn: Connection, **arguments: Any) -> int:
    return call(conn, "enqueue_job", **{"task": "t", **arguments})[0]["job_id"]


def schedule(conn: Connection, **arguments: Any) -> int:
    return call(conn, "schedule_job", **{"task": "t", "every": HOUR, "name": "s", **arguments})[0][
        "job_id"
    ]


def held(conn: Connection, **arguments: Any) -> Arguments:
    forget_cursors(conn)
    (job,) = call(conn, "claim_next_job", **arguments)
    return {"job_id": job["id"], "token": job["token"]}


def waiting(conn: Connection, clock: Clock) -> Arguments:
    enqueue(conn)
    return {}


def running(conn: Connection, clock: Clock) -> Arguments:
    enqueue(conn)
    return held(conn)


def running_schedule(conn: Connection, clock: Clock) -> Arguments:
    schedule(conn)
    pair = held(conn)
    clock.advance(5 * HOUR / 2)
    return pair


def batch(conn: Connection, clock: Clock) -> Arguments:
    pairs = [running(conn, clock), running(conn, clock)]
    return {"job_ids": [p["job_id"] for p in pairs], "tokens": [p["token"] for p in pairs]}


def finished(conn: Connection, clock: Clock) -> Arguments:
    pair = running(conn, clock)
    call(conn, "finish_job", **pair)
    return pair


def failed(conn: Connection, clock: Clock) -> Arguments:
    pair = running(conn, clock)
    call(conn, "finish_job", **pair, error="x", retry=False)
    return {"job_id": pair["job_id"]}


def missed(conn: Connection, clock: Clock) -> Arguments:
    schedule(conn, misfire="skip", starts_at="2020-01-01", ends_at=None)
    clock.advance(3 * HOUR / 2)
    return {}


def missed_and_over(conn: Connection, clock: Clock) -> Arguments:
    (now,) = conn.execute("select rota._now()").fetchone() or (None,)
    schedule(conn, misfire="skip", ends_at=now + HOUR)
    clock.advance(3 * HOUR)
    return {}


def paused(conn: Connection, clock: Clock) -> Arguments:
    (now,) = conn.execute("select rota._now()").fetchone() or (None,)
    schedule(conn, ends_at=now + HOUR)
    call(conn, "pause_schedule", name="s")
    clock.advance(3 * HOUR)
    return {"name": "s"}


def replaceable(conn: Connection, clock: Clock) -> Arguments:
    arguments = {"unique_key": "k", "replace": True}
    enqueue(conn, **arguments)
    return {"task": "t", **arguments}


def named(conn: Connection, clock: Clock) -> Arguments:
    schedule(conn)
    return {"name": "s"}


def put_back(conn: Connection, clock: Clock) -> Arguments:
    schedule(conn)
    for _ in range(3):
        call(conn, "finish_job", **held(conn))
        clock.advance(HOUR)
    clock.advance(-3 * HOUR)
    return {"task": "t", "every": 2 * HOUR, "name": "s"}


def lost(conn: Connection, clock: Clock) -> Arguments:
    running(conn, clock)
    clock.advance(HOUR)
    return {}


def of_a_dead_worker(conn: Connection, clock: Clock) -> Arguments:
    """Leave a worker that was taken for dead, one that is to be, and one that was only cut off."""
    for name in ("dead", "away", "cut"):
        call(conn, "announce_worker", **{**WORKER, "worker": name})
        enqueue(conn)
        held(conn, worker=name, lease=HOUR)
    conn.execute(
        """
        update rota.workers
        set backend = 0,
            server_since = rota._server_since(),
            gone_at = case worker
                when 'dead' then rota._now()
                when 'away' then rota._now() - interval '1 minute'
            end,
            stopped_at = case worker when 'dead' then rota._now() end
        """
    )
    return {}


def old_weeks(conn: Connection, clock: Clock) -> Arguments:
    finished(conn, clock)
    call(conn, "configure_retention", retention=timedelta(days=7))
    clock.advance(timedelta(days=50))
    return {}


def unkept(conn: Connection, clock: Clock) -> Arguments:
    """Leave a job that runs, and of which nothing is kept when it completes."""
    enqueue(conn)
    conn.execute("update rota.lanes set unkept = true")
    pair = held(conn)
    conn.execute("update rota.lanes set unkept = null")
    return pair


def unkept_beside_others(conn: Connection, clock: Clock) -> Arguments:
    pairs = [unkept(conn, clock), running(conn, clock), unkept(conn, clock)]
    return {
        "job_ids": [pair["job_id"] for pair in pairs],
        "tokens": [pair["token"] for pair in pairs],
    }


def unkept_beside_one_that_fails(conn: Connection, clock: Clock) -> Arguments:
    return unkept_beside_others(conn, clock) | {"errors": [None, "x", None]}


def left_a_receipt(conn: Connection, clock: Clock) -> Arguments:
    pair = unkept(conn, clock)
    call(conn, "finish_job", **pair)
    return pair


def run_out(conn: Connection, clock: Clock, steps: int = 1) -> Arguments:
    """Leave a partition in which much has run out, so many steps on the way out."""
    call(conn, "configure_retention", retention=30 * DAY, keep_completed=HOUR)
    clock.advance(100 * DAY)
    call(conn, "maintain")
    for _ in range(3):
        finished(conn, clock)
    failed(conn, clock)
    clock.advance(DAY + 4 * HOUR)
    for _ in range(4):
        call(conn, "roll_up")
    for _ in range(steps):
        call(conn, "do_chores")
        clock.advance(timedelta(seconds=70))
    return {}


def copied(conn: Connection, clock: Clock) -> Arguments:
    return run_out(conn, clock, steps=3)


def to_be_counted(conn: Connection, clock: Clock) -> Arguments:
    """Leave minutes that are over, and that nothing more can end in."""
    finished(conn, clock)
    failed(conn, clock)
    clock.advance(HOUR)
    for _ in range(3):  # what is noted by one call is counted by the next
        call(conn, "roll_up", max_minutes=1)
    return {}


def a_queue(conn: Connection, clock: Clock) -> Arguments:
    call(conn, "configure_queue", queue="q", max_retries=5)
    return {"queue": "q"}


def a_paused_queue(conn: Connection, clock: Clock) -> Arguments:
    call(conn, "pause_queue", **a_queue(conn, clock))
    return {"queue": "q"}


def a_wall(conn: Connection, clock: Clock) -> Arguments:
    arguments = {"principal": "rota_test_walled", "queue_pattern": "a.*"}
    conn.execute(
        "insert into rota.queue_walls values (%(principal)s, %(queue_pattern)s)"
        " on conflict do nothing",
        arguments,
    )
    return arguments


def handed_back(conn: Connection, clock: Clock) -> Arguments:
    pair = running(conn, clock)
    call(
        conn,
        "release_unhandled_jobs",
        job_ids=[pair["job_id"]],
        tokens=[pair["token"]],
        delay=HOUR,
        reason="no handler",
    )
    return {"queues": ["default"], "tasks": ["t"]}


def batch_of_schedules(conn: Connection, clock: Clock) -> Arguments:
    schedule(conn)
    schedule(conn, name="other")
    pairs = [held(conn), held(conn)]
    return {"job_ids": [p["job_id"] for p in pairs], "tokens": [p["token"] for p in pairs]}


def a_token(conn: Connection, clock: Clock) -> Arguments:
    conn.execute("delete from rota.api_tokens")
    (made,) = call(conn, "create_token", principal="rota_operator", hash=HASH)
    return {"token_id": made["token_id"]}


def a_token_that_is_shown(conn: Connection, clock: Clock) -> Arguments:
    a_token(conn, clock)
    return {"hash": HASH}


def several(conn: Connection, clock: Clock) -> Arguments:
    """A job that waits and one that runs, one that failed and one that was cancelled."""
    enqueue(conn, unique_key="several")
    running(conn, clock)
    failed(conn, clock)
    call(conn, "cancel_job", job_id=enqueue(conn, unique_key="other"))
    schedule(conn)
    call(conn, "delete_schedule", name="s")
    return {}


def workflow(conn: Connection, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
    return call(conn, "enqueue_workflow", jobs=Jsonb([{"task": "t"} | job for job in jobs]))


def a_parent(conn: Connection, clock: Clock) -> Arguments:
    """Leave a running job on which others depend in each way, and on them others."""
    workflow(
        conn,
        {"node": "x"},
        {"node": "y", "depends_on": ["x"], "key": "k"},
        {"depends_on": ["x"], "if_parent_fails": "run"},
        {"depends_on": ["y"]},
        {"depends_on": "all"},
    )
    return held(conn)


def a_parent_that_ended(conn: Connection, clock: Clock) -> Arguments:
    """Leave a job that failed with what it took down, above another that did."""
    (one, *_) = workflow(conn, {"node": "x"}, {"node": "y"}, {"depends_on": ["x", "y"]})
    for _ in range(2):
        call(conn, "finish_job", **held(conn), error="x", retry=False)
    a_parent(conn, clock)
    workflow(conn, {"depends_on": [a_plain_parent(conn)]}, {"depends_on": "previous"})
    return {"job_id": one["job_id"]}


def a_plain_parent(conn: Connection) -> int:
    return enqueue(conn, run_at=datetime.now(UTC) + HOUR)


def one_that_waits(conn: Connection, clock: Clock) -> Arguments:
    """Leave a job that waits, and on which others do."""
    _, one, *_ = workflow(
        conn,
        {"node": "x"},
        {"node": "y", "depends_on": ["x"]},
        {"depends_on": ["y"]},
        {"depends_on": ["x", "y"], "if_parent_fails": "run"},
    )
    return {"job_id": one["job_id"]}


def waiting_and_others(conn: Connection, clock: Clock) -> Arguments:
    """Leave jobs that wait, and such as they wait for in each state."""
    several(conn, clock)
    a_parent_that_ended(conn, clock)
    one_that_waits(conn, clock)
    return {}


def a_workflow(conn: Connection, clock: Clock) -> Arguments:
    """Leave one that runs, with a job that waits beside, on one of its jobs."""
    rows = workflow(conn, {"node": "x"}, {"depends_on": ["x"]}, {"depends_on": "all"})
    workflow(conn, {"depends_on": [rows[1]["job_id"]]})
    held(conn)
    return {"workflow_id": rows[0]["workflow_id"]}


def a_workflow_that_ended(conn: Connection, clock: Clock) -> Arguments:
    arguments = a_workflow(conn, clock)
    call(conn, "cancel_workflow", **arguments)
    call(conn, "recover_jobs")
    clock.advance(HOUR)
    call(conn, "recover_jobs")
    return arguments


def a_workflow_that_goes_on(conn: Connection, clock: Clock) -> Arguments:
    """Leave one of which a job runs, and what depends on it was cancelled."""
    rows = workflow(conn, {"node": "x"}, {"depends_on": ["x"]}, {"depends_on": "previous"})
    call(conn, "cancel_job", job_id=rows[1]["job_id"])
    held(conn)
    return {"workflow_id": rows[0]["workflow_id"]}


def parents_to_come(conn: Connection, clock: Clock) -> Arguments:
    """Ask for jobs that depend on such as run, wait, are scheduled, failed and completed."""
    several(conn, clock)
    done = finished(conn, clock)["job_id"]
    failed_one = failed(conn, clock)["job_id"]
    runs = running(conn, clock)["job_id"]
    waits = one_that_waits(conn, clock)["job_id"]
    return {
        "jobs": Jsonb(
            [
                {"task": "t", "depends_on": [runs, waits, done], "unique_key": "w"},
                {"task": "t", "depends_on": [failed_one, a_plain_parent(conn)]}
                | {"if_parent_fails": "run", "key": "k"},
                {"task": "t", "depends_on": "all"},
            ]
        )
    }


def followed(conn: Connection, clock: Clock) -> Arguments:
    """Finish a job on which others depend with jobs that follow, on what waits and what ended."""
    done = failed(conn, clock)["job_id"]
    pair = a_parent(conn, clock)
    waits = one_that_waits(conn, clock)["job_id"]
    following = [
        {"task": "t", "node": "a", "key": "k"},
        {"task": "t", "depends_on": ["a", waits, a_plain_parent(conn)]},
        {"task": "t", "depends_on": [done], "if_parent_fails": "run"},
    ]
    return pair | {"next": Jsonb(following)}


def followed_schedule(conn: Connection, clock: Clock) -> Arguments:
    return running_schedule(conn, clock) | {"next": Jsonb([{"task": "t"}])}


def with_a_step(conn: Connection, clock: Clock) -> Arguments:
    pair = running(conn, clock)
    call(conn, "record_step", **pair, step="one", result=Jsonb(1))
    return pair | {"step": "two"}


def awaiting(conn: Connection, clock: Clock) -> Arguments:
    """Leave jobs that wait for an event, with a key and without, and one that runs."""
    for key in (None, "k"):
        enqueue(conn, key=key)
        call(conn, "await_event", **held(conn), step="s", event="e", timeout=HOUR)
    return running(conn, clock) | {"step": "s", "event": "e"}


def awaited(conn: Connection, clock: Clock) -> Arguments:
    awaiting(conn, clock)
    return {"event": "e", "payload": Jsonb(1)}


def arrived(conn: Connection, clock: Clock) -> Arguments:
    call(conn, "emit_event", event="e")
    return awaiting(conn, clock) | {"timeout": HOUR}


def begun(conn: Connection, clock: Clock) -> Arguments:
    call(conn, "begin_request", key="k", fingerprint="f")
    return {"key": "k"}


def given(**arguments: Any) -> Callable[[Connection, Clock], Arguments]:
    return lambda conn, clock: arguments


WORKER = {"worker": "w", "host": "h", "pid": 1, "queues": ["a"], "concurrency": 1, "version": "v"}

CALLS: list[tuple[str, Callable[[Connection, Clock], Arguments], Arguments]] = [
    ("enqueue_job", given(task="t", unique_key="k"), {}),
    ("enqueue_job", given(task="t", unique_key="k", unique_for=HOUR), {}),
    ("enqueue_job", replaceable, {}),
    ("enqueue_many", given(task="t", payloads=Jsonb([1, {}])), {}),
    ("enqueue_jobs", given(jobs=Jsonb([{"task": "t"}, {"task": "t", "unique_key": "k"}])), {}),
    (
        "enqueue_workflow",
        given(jobs=Jsonb([{"task": "t", "key": "k"}, {"task": "t", "depends_on": "all"}])),
        {},
    ),
    ("enqueue_workflow", parents_to_come, {}),
    ("schedule_job", given(task="t", every=HOUR, name="new"), {}),
    ("schedule_job", put_back, {}),
    (
        "schedule_job",
        given(task="t", cron="*/5 8-17 * JAN-NOV MON-FRI", time_zone="Europe/Berlin", name="cron"),
        {},
    ),
    ("preview_schedule", given(cron="0,30 2 L * *", time_zone="Europe/Berlin", n=9), {}),
    ("version", given(), {}),
    ("was_deployed", given(version="v"), {}),
    ("next_run", given(cron="@daily", time_zone="UTC", after="2030-01-01"), {}),
    ("shard", given(), {}),
    ("shard_of", given(key="k", n=4), {}),
    ("preview_schedule", given(every=HOUR), {}),
    ("claim_next_job", waiting, {}),
    ("claim_next_job", missed, {}),
    ("claim_next_job", missed_and_over, {}),
    ("finish_job", running, {}),
    ("finish_job", running, {"error": "x"}),
    ("finish_job", running, {"error": "x", "retry": False}),
    ("finish_job", running_schedule, {}),
    ("finish_job", finished, {}),
    ("finish_job", a_parent, {}),
    ("finish_job", a_parent, {"error": "x", "retry": False}),
    ("finish_job", followed, {}),
    ("finish_job", followed_schedule, {}),
    ("finish_jobs", batch, {}),
    ("finish_jobs", batch, {"errors": ["x", None]}),
    ("parent_results", one_that_waits, {}),
    ("record_step", with_a_step, {}),
    ("recorded_steps", lambda conn, clock: {"job_id": with_a_step(conn, clock)["job_id"]}, {}),
    ("sleep_job", with_a_step, {"delay": HOUR}),
    ("await_event", awaiting, {"timeout": HOUR}),
    ("await_event", awaiting, {"timeout": timedelta(0)}),
    ("await_event", arrived, {}),
    ("emit_event", awaited, {}),
    ("heartbeat_job", running, {}),
    ("heartbeat_jobs", batch, {}),
    ("release_job", running, {}),
    ("release_job", running_schedule, {}),
    ("hold_lease", running, {}),
    ("begin_sleep", given(queues=["a"]), {}),
    ("end_sleep", given(queues=[]), {}),
    ("announce_worker", given(**WORKER), {}),
    ("dismiss_worker", given(worker="w"), {}),
    ("do_chores", lost, {}),
    ("do_chores", to_be_counted, {}),
    ("recover_jobs", lost, {}),
    ("recover_jobs", of_a_dead_worker, {}),
    ("recover_workers", of_a_dead_worker, {}),
    ("finish_job", unkept, {}),
    ("finish_job", left_a_receipt, {}),
    ("finish_jobs", unkept_beside_others, {}),
    ("finish_jobs", unkept_beside_one_that_fails, {}),
    ("do_chores", run_out, {}),
    ("do_chores", copied, {}),
    ("maintain", old_weeks, {}),
    ("take_census", lambda conn, clock: running(conn, clock) and {}, {"older_than": "0"}),
    ("roll_up", to_be_counted, {}),
    ("statistics_age", given(), {}),
    ("cancel_job", lambda conn, clock: {"job_id": enqueue(conn)}, {}),
    ("cancel_job", lambda conn, clock: {"job_id": running(conn, clock)["job_id"]}, {}),
    ("cancel_job", one_that_waits, {}),
    ("cancel_job", lambda conn, clock: {"job_id": a_parent(conn, clock)["job_id"]}, {}),
    ("cancel_jobs", several, {"filter": Jsonb({"task": "t"}), "dry_run": False}),
    ("cancel_jobs", waiting_and_others, {"filter": Jsonb({"task": "t"}), "dry_run": False}),
    ("cancel_workflow", a_workflow, {}),
    ("retry_workflow", a_workflow_that_ended, {}),
    ("retry_workflow", a_workflow_that_goes_on, {}),
    ("retry_job", failed, {}),
    ("retry_job", a_parent_that_ended, {}),
    ("retry_jobs", several, {"filter": Jsonb({"task": "t"}), "dry_run": False}),
    ("retry_jobs", waiting_and_others, {"filter": Jsonb({"task": "t"}), "dry_run": False}),
    ("retry_jobs", several, {"filter": Jsonb({"schedule_type": "INTERVAL"}), "dry_run": False}),
    ("pause_queue", a_queue, {}),
    ("resume_queue", a_paused_queue, {}),
    ("delete_queue", a_paused_queue, {}),
    ("next_due_in", waiting, {}),
    ("begin_request", given(key="k", fingerprint="f"), {}),
    ("end_request", begun, {"status": 201, "answer": "{}"}),
    ("ended_jobs", given(job_ids=[1, 2]), {}),
    ("bring_forward_jobs", handed_back, {}),
    ("release_unhandled_jobs", batch, {}),
    ("release_unhandled_jobs", batch_of_schedules, {}),
    ("pause_schedule", named, {}),
    ("resume_schedule", paused, {}),
    ("trigger_schedule", paused, {}),
    ("backfill_schedule", named, {"starts_at": "2030-01-01", "ends_at": "2030-01-02"}),
    ("delete_schedule", named, {}),
    ("configure_queue", given(queue="default", max_retries=1), {}),
    ("configure_queue", given(queue="default", key_max_running=1), {}),
    ("configure_key", given(queue="default", key="k", max_running=1), {}),
    ("configure_retention", given(retention=timedelta(days=30)), {}),
    ("configure_queue", given(queue="q", keep_completed=timedelta(0)), {}),
    ("check_invariants", waiting, {}),
    ("doctor", waiting, {}),
    ("doctor", lost, {}),
    ("explain_job", lambda conn, clock: {"job_id": enqueue(conn)}, {}),
    ("explain_job", lambda conn, clock: {"job_id": running(conn, clock)["job_id"]}, {}),
    ("explain_job", failed, {}),
    ("create_token", given(principal="rota_operator", note="n"), {}),
    ("revoke_token", a_token, {}),
    ("authenticate_token", a_token_that_is_shown, {}),
    ("principal_of", a_token_that_is_shown, {}),
    ("needs_token", given(), {}),
    ("wall", given(principal="rota_producer", queue_pattern="nobody.*"), {}),
    ("unwall", a_wall, {}),
    ("visible_queues", lambda conn, clock: a_wall(conn, clock) and {}, {}),
    ("binding_principals", lambda conn, clock: a_wall(conn, clock) and {}, {}),
]
