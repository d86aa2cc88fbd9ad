"""Each parameter of each function that people call changes something, and is held to its range.

Both tables are checked against the catalogue: whoever adds a parameter has to say here what it
changes, and which values it takes.
"""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.db.gateway import call

SECOND, MINUTE, HOUR, DAY = (
    timedelta(seconds=1),
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
)
TICK = timedelta(microseconds=1)
START = datetime(2030, 1, 7, tzinfo=UTC)
FIRST, LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)
SEEN = (
    "select * from rota.jobs",
    "select * from rota.executions",
    "select * from rota.schedule_status",
    "select * from rota.queue_status",
    "select * from rota.worker_status",
    "select principal, queue_pattern from rota.walls",
    "select retention, keep_completed, keep_failed from rota.settings",
    "select principal, note, expires_at, revoked_at from rota.tokens",
    "select actor, function, queue, schedule, affected, details - '{job_ids, workflow_id}'::text[]"
    " as details from rota.actions",
    "select name, cancelled_at is null, waiting, state from rota.workflow_status",
    "select node, state, cardinality(depends_on), if_parent_fails from rota.workflow_nodes",
    "select step, result from rota.job_steps",
    "select name, payload, emitted_at is null from rota.events",
    "select event, step, until from rota.event_waits",
    "select queue, unique_key, until > now() + interval '1 minute' from rota.unique_keys",
    "select key, fingerprint, status, answer, location from rota.requests",
    "select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'",
)


def one_claimed(conn, **arguments):
    call(conn, "enqueue_job", **{"task": "work", **arguments})
    (claimed,) = call(conn, "claim_next_job", worker="w")
    return {"job_id": claimed["id"], "token": claimed["token"]}


def two_claimed(conn):
    held = [one_claimed(conn), one_claimed(conn)]
    return {"job_ids": [h["job_id"] for h in held], "tokens": [h["token"] for h in held]}


def one_waits(conn):
    for task in ("a", "b", "c"):
        call(conn, "enqueue_job", task=task)
    call(conn, "enqueue_job", task="d", queue="mail")


def one_schedule(conn):
    call(conn, "schedule_job", task="tick", every=HOUR, starts_at=START, name="tick")
    call(conn, "schedule_job", task="tock", every=HOUR, starts_at=START + MINUTE, name="tock")
    return {"name": "tick"}


def a_workflow(conn):
    x, y = {"task": "a", "node": "x"}, {"task": "b", "node": "y", "depends_on": ["x"]}
    (first, _) = call(conn, "enqueue_workflow", jobs=Jsonb([x, y]))
    return {"job_id": first["job_id"], "workflow_id": first["workflow_id"]}


def two_paused(conn):
    one_schedule(conn)
    call(conn, "pause_schedule", name="tick")
    call(conn, "pause_schedule", name="tock")
    return {"name": "tick"}


def two_cancelled(conn):
    one_waits(conn)
    for job_id in first_jobs(conn, 2):
        call(conn, "cancel_job", job_id=job_id)
    return {"job_id": first_jobs(conn, 1)[0]}


def first_jobs(conn, number):
    rows = conn.execute("select id from rota.jobs order by id limit %s", [number])
    return [job_id for (job_id,) in rows]


def unhandled(conn):
    for task, queue in (("a", "default"), ("a", "default"), ("b", "default"), ("a", "mail")):
        call(conn, "enqueue_job", task=task, queue=queue)
    held = call(conn, "claim_next_job", queues=["default", "mail"], max_jobs=4)
    pairs = {"job_ids": [job["id"] for job in held], "tokens": [job["token"] for job in held]}
    call(conn, "release_unhandled_jobs", **pairs, delay=HOUR)


def one_that_is_known_elsewhere(conn):
    about = {"host": "h", "pid": 1, "concurrency": 1, "version": "v"}
    call(conn, "announce_worker", worker="v", queues=["default"], tasks=["known"], **about)
    held = [one_claimed(conn, task="known"), one_claimed(conn)]
    return {"job_ids": [h["job_id"] for h in held], "tokens": [h["token"] for h in held]}


def two_tokens(conn):
    (one,) = call(conn, "create_token", principal="rota_operator", hash=b"1" * 32)
    call(conn, "create_token", principal="rota_operator", hash=b"2" * 32, note="other")
    return {"token_id": one["token_id"]}


def lost_leases(conn):
    # Else a look that takes long may find a job due again that was taken back.
    call(conn, "configure_queue", queue="default", backoff_base=MINUTE)
    one_waits(conn)
    call(conn, "claim_next_job", lease=TICK, max_jobs=2)


def minutes_that_are_over(conn):
    conn.execute(
        """
        update rota.chores
        set until = date_trunc('hour', rota._now() - interval '1 hour', 'UTC'),
            ready_until = date_trunc('hour', rota._now(), 'UTC') - interval '2 minutes',
            xid = '3',
            readers = '{}'
        where chore = 'roll_up'
        """
    )


def counted_a_moment_ago(conn):
    one_waits(conn)
    call(conn, "take_census")
    conn.execute(
        "update rota.chores set ran_at = ran_at - interval '9 s', took = '0.5 s'"
        " where chore = 'take_census'"
    )
    return {"older_than": 5 * SECOND, "force": True}


def census_of_what_is_over(conn):
    conn.execute(
        """
        insert into rota.census (
            queue, task, priority, scheduled, due, retrying, running, lost, overdue, oldest_due_at,
            oldest_with_room_at
        )
        select 'mail', 't', 0, 1, 1, 0, 0, 0, 0, n.at, n.at
        from (select rota._now() - interval '1 hour' as at) as n
        """
    )
    conn.execute("update rota.chores set ran_at = rota._now() where chore = 'take_census'")


def two_walls(conn):
    for principal in ("rota_reader", "rota_worker"):
        for pattern in ("a.*", "b"):
            call(conn, "wall", principal=principal, queue_pattern=pattern)
    return {"principal": "rota_reader", "queue_pattern": "a.*"}


# What a call needs first, as what it returns: the arguments that it is called with.
SCENES = {
    "enqueue_job": lambda conn: {"task": "work", "unique_key": "held"},
    "enqueue_jobs": lambda conn: {},
    "enqueue_many": lambda conn: {"task": "work", "payloads": Jsonb([{}, 2])},
    "enqueue_workflow": lambda conn: {"jobs": Jsonb([{"task": "a"}])},
    "cancel_workflow": lambda conn: {"workflow_id": a_workflow(conn)["workflow_id"]},
    "retry_workflow": lambda conn: (
        (scene := {"workflow_id": a_workflow(conn)["workflow_id"]})
        and call(conn, "cancel_workflow", **scene)
        and scene
    ),
    "parent_results": lambda conn: {"job_id": a_workflow(conn)["job_id"]},
    "record_step": lambda conn: one_claimed(conn) | {"step": "one"},
    "recorded_steps": lambda conn: (
        (pair := one_claimed(conn))
        and call(conn, "record_step", **pair, step="one")
        and one_claimed(conn)
        and {"job_id": pair["job_id"]}
    ),
    "sleep_job": lambda conn: one_claimed(conn) | {"step": "s", "delay": HOUR},
    "await_event": lambda conn: one_claimed(conn) | {"step": "s", "event": "e", "timeout": HOUR},
    "emit_event": lambda conn: {"event": "e"},
    "schedule_job": lambda conn: {
        "task": "tick",
        "every": 2 * DAY,
        "name": "tick",
        "starts_at": START,
        "ends_at": START + 1000 * DAY,
    },
    "claim_next_job": lambda conn: one_waits(conn) or {"max_jobs": 2},
    "finish_job": lambda conn: one_claimed(conn) | {"error": "boom", "retry_in": MINUTE},
    "finish_jobs": two_claimed,
    "heartbeat_job": one_claimed,
    "heartbeat_jobs": two_claimed,
    "release_job": one_claimed,
    "hold_lease": one_claimed,
    "begin_sleep": lambda conn: {"queues": ["a"]},
    "end_sleep": lambda conn: (
        call(conn, "begin_sleep", queues=["a", "b"], longest=HOUR) and {"queues": ["a"]}
    ),
    "announce_worker": lambda conn: {
        "worker": "w",
        "host": "here",
        "pid": 7,
        "queues": ["a"],
        "concurrency": 4,
        "version": "v",
    },
    "was_deployed": lambda conn: (
        conn.execute("insert into rota.versions values ('v', now())") and {"version": "v"}
    ),
    "next_due_in": lambda conn: (
        call(conn, "enqueue_job", task="soon", run_at=datetime.now(UTC) + 5 * MINUTE)
        and call(
            conn, "enqueue_job", task="s", queue="mail", run_at=datetime.now(UTC) + 50 * MINUTE
        )
        and {"within": HOUR}
    ),
    "begin_request": lambda conn: (
        call(conn, "begin_request", key="k", fingerprint="f") and {"key": "k", "fingerprint": "f"}
    ),
    "end_request": lambda conn: (
        [call(conn, "begin_request", key=key, fingerprint="f") for key in ("k", "l")]
        and {"key": "k", "status": 201, "answer": "{}"}
    ),
    "ended_jobs": lambda conn: {"job_ids": [two_cancelled(conn)["job_id"]]},
    "release_unhandled_jobs": one_that_is_known_elsewhere,
    "bring_forward_jobs": lambda conn: unhandled(conn) or {"queues": ["default"], "tasks": ["a"]},
    "delete_queue": lambda conn: (
        call(conn, "configure_queue", queue="mail")
        and call(conn, "configure_queue", queue="post")
        and None
    ),
    "dismiss_worker": lambda conn: (
        call(conn, "announce_worker", **SCENES["announce_worker"](conn)) and None
    ),
    "do_chores": lost_leases,
    "doctor": census_of_what_is_over,
    "recover_jobs": lost_leases,
    "take_census": counted_a_moment_ago,
    "roll_up": minutes_that_are_over,
    "cancel_job": lambda conn: one_waits(conn) or {"job_id": first_jobs(conn, 1)[0]},
    "cancel_jobs": lambda conn: (
        one_waits(conn) or {"filter": Jsonb({"queue": "default"}), "dry_run": False}
    ),
    "retry_job": two_cancelled,
    "retry_jobs": lambda conn: (
        two_cancelled(conn) and {"filter": Jsonb({"queue": "default"}), "dry_run": False}
    ),
    "pause_queue": one_waits,
    "resume_queue": lambda conn: (
        one_waits(conn) or (call(conn, "pause_queue", queue="mail") and None)
    ),
    "configure_queue": lambda conn: (
        call(
            conn,
            "configure_queue",
            queue="mail",
            timeout=2 * HOUR,
            starts_period=DAY,
            key_starts_period=DAY,
        )
        and {"queue": "mail"}
    ),
    "configure_key": lambda conn: (
        call(conn, "configure_queue", queue="mail", key_starts_period=DAY)
        and call(conn, "configure_key", queue="mail", key="acme", max_running=9)
        and {"queue": "mail", "key": "acme"}
    ),
    "configure_retention": lambda conn: {},
    "wall": lambda conn: {"principal": "rota_reader", "queue_pattern": "a.*"},
    "unwall": two_walls,
    "pause_schedule": one_schedule,
    "resume_schedule": two_paused,
    "trigger_schedule": one_schedule,
    "delete_schedule": one_schedule,
    "backfill_schedule": lambda conn: (
        one_schedule(conn) | {"starts_at": START, "ends_at": START + 3 * HOUR}
    ),
    "shard_of": lambda conn: {"key": "k0", "n": 4},
    "next_run": lambda conn: {"cron": "0 9 * * *", "time_zone": "UTC", "after": START},
    "create_token": lambda conn: {"principal": "rota_operator"},
    "revoke_token": two_tokens,
    "authenticate_token": lambda conn: two_tokens(conn) and {"hash": b"1" * 32},
    "principal_of": lambda conn: two_tokens(conn) and {"hash": b"1" * 32},
    "preview_schedule": lambda conn: {"cron": "0 9 * * *", "from_time": START, "n": 3},
    "explain_job": lambda conn: one_waits(conn) or {"job_id": first_jobs(conn, 1)[0]},
}

# Two values of each parameter that make a difference. Where a call may do without the parameter,
# the first is left out in a third call, and its default named.
DIFFERENCES = {
    "enqueue_job": {
        "task": ("work", "play"),
        "payload": (Jsonb({}), Jsonb(1)),
        "queue": ("default", "mail"),
        "run_at": (None, START),
        "priority": (0, 1),
        "max_retries": (3, 4),
        "timeout": (None, HOUR),
        "unique_key": (None, "k"),
        "headers": (None, Jsonb({"a": "b"})),
        "key": (None, "acme"),
        "unique_for": (None, HOUR),
        "replace": (False, True),
    },
    "enqueue_jobs": {"jobs": (Jsonb([{"task": "a"}]), Jsonb([{"task": "b"}]))},
    "enqueue_many": {
        "task": ("work", "play"),
        "payloads": (Jsonb([1, 2]), Jsonb([1, 3])),
        "queue": ("default", "mail"),
        "run_at": (None, START),
        "priority": (0, 1),
        "max_retries": (3, 4),
        "timeout": (None, HOUR),
        "headers": (None, Jsonb({"a": "b"})),
        "key": (None, "acme"),
    },
    "enqueue_workflow": {
        "jobs": (
            Jsonb([{"task": "a"}, {"task": "a"}]),
            Jsonb([{"task": "a"}, {"task": "a", "depends_on": "all"}]),
        ),
        "name": (None, "nightly"),
    },
    "cancel_workflow": {"workflow_id": (1, 2), "reason": (None, "enough")},
    "retry_workflow": {"workflow_id": (1, 2)},
    "parent_results": {"job_id": (1, 2)},
    "record_step": {
        "job_id": (1, 999),
        "token": (UUID(int=1), UUID(int=2)),
        "step": ("one", "two"),
        "result": (None, Jsonb(1)),
    },
    "recorded_steps": {"job_id": (1, 2)},
    "sleep_job": {
        "job_id": (1, 999),
        "token": (UUID(int=1), UUID(int=2)),
        "step": ("s", "t"),
        "delay": (HOUR, 2 * HOUR),
    },
    "await_event": {
        "job_id": (1, 999),
        "token": (UUID(int=1), UUID(int=2)),
        "step": ("s", "t"),
        "event": ("e", "f"),
        "timeout": (HOUR, 2 * HOUR),
    },
    "emit_event": {"event": ("e", "f"), "payload": (None, Jsonb(1))},
    "schedule_job": {
        "task": ("tick", "tock"),
        "payload": (Jsonb({}), Jsonb(1)),
        "every": (2 * DAY, 3 * DAY),
        "cron": (None, "0 9 * * *"),
        "time_zone": ("UTC", "Asia/Tokyo"),
        "starts_at": (None, START + HOUR),
        "name": (None, "tock"),
        "misfire": ("once", "all"),
        "queue": ("default", "mail"),
        "priority": (0, 1),
        "max_retries": (3, 4),
        "timeout": (None, HOUR),
        "ends_at": (None, START + 500 * DAY),
        "max_runs": (None, 1),
        "fixed_delay": (False, True),
        "jitter": (timedelta(0), DAY),
        "misfire_cap": (100, 101),
        "max_lateness": (None, DAY),
        "overlap": ("coalesce", "catch_up"),
        "headers": (None, Jsonb({"a": "b"})),
        "key": (None, "acme"),
    },
    "claim_next_job": {
        "queues": (["default"], ["mail"]),
        "worker": (None, "w"),
        "lease": (MINUTE, HOUR),
        "max_jobs": (1, 2),
        "max_bytes": (None, 1),
    },
    "finish_job": {
        "job_id": (1, 999),
        "token": (UUID(int=1), UUID(int=2)),
        "error": (None, "boom"),
        "result": (None, Jsonb(1)),
        "retry_in": (HOUR, 2 * HOUR),
        "retry": (True, False),
        "next": (Jsonb([{"task": "a"}]), Jsonb([{"task": "b"}])),
    },
    "finish_jobs": {
        "job_ids": ([1, 2], [2, 1]),
        "tokens": ([UUID(int=1), UUID(int=2)], []),
        "errors": (None, [None, "boom"]),
        "results": (None, [Jsonb(1), None]),
    },
    "heartbeat_job": {
        "job_id": (1, 999),
        "token": (UUID(int=1), UUID(int=2)),
        "lease": (MINUTE, HOUR),
        "progress": (None, Jsonb(1)),
    },
    "heartbeat_jobs": {
        "job_ids": ([1, 2], [2, 1]),
        "tokens": ([UUID(int=1), UUID(int=2)], []),
        "lease": (MINUTE, HOUR),
    },
    "release_job": {
        "job_id": (1, 999),
        "token": (UUID(int=1), UUID(int=2)),
        "delay": (timedelta(0), HOUR),
        "reason": (None, "full"),
    },
    "hold_lease": {"job_id": (1, 999), "token": (UUID(int=1), UUID(int=2))},
    "begin_sleep": {"queues": (["a"], ["a", "b"]), "longest": (SECOND, HOUR)},
    "end_sleep": {"queues": (["a"], ["a", "b"]), "longest": (SECOND, HOUR)},
    "announce_worker": {
        "worker": ("w", "v"),
        "host": ("here", "there"),
        "pid": (7, 8),
        "queues": (["a"], ["b"]),
        "concurrency": (4, 5),
        "version": ("v", "w"),
        "tasks": (None, ["a"]),
        "overrun": (None, 1),
        "clock": (None, START),
        "attends": (False, True),
    },
    "was_deployed": {"version": ("v", "w")},
    "next_due_in": {"queues": (["default"], ["mail"]), "within": (SECOND, HOUR)},
    "begin_request": {"key": ("k", "l"), "fingerprint": ("f", "g")},
    "end_request": {
        "key": ("k", "l"),
        "status": (201, 200),
        "answer": ("{}", "[]"),
        "location": (None, "/jobs/1"),
    },
    "ended_jobs": {"job_ids": ([], [1])},
    "release_unhandled_jobs": {
        "job_ids": ([1, 2], [2, 1]),
        "tokens": ([UUID(int=1), UUID(int=2)], []),
        "delay": (5 * SECOND, HOUR),
        "delay_if_known": (SECOND / 2, 2 * HOUR),
        "reason": (None, "nobody knows it"),
    },
    "bring_forward_jobs": {
        "queues": (["default"], ["mail"]),
        "tasks": (["a"], ["b"]),
        "max_jobs": (1000, 1),
    },
    "delete_queue": {"queue": ("mail", "post")},
    "dismiss_worker": {"worker": ("w", "v")},
    "do_chores": {"max_jobs": (1000, 1)},
    "doctor": {"max_age": (30 * SECOND, timedelta(0))},
    "recover_jobs": {"max_jobs": (1000, 1)},
    "take_census": {"older_than": (5 * SECOND, HOUR), "force": (False, True)},
    "roll_up": {"max_minutes": (10_080, 1)},
    "cancel_job": {"job_id": (1, 2), "reason": (None, "enough")},
    "cancel_jobs": {
        "filter": (Jsonb({"queue": "default"}), Jsonb({"queue": "mail"})),
        "reason": (None, "enough"),
        "max_jobs": (1000, 1),
        "dry_run": (True, False),
    },
    "explain_job": {"job_id": (1, 2)},
    "retry_job": {"job_id": (1, 2)},
    "retry_jobs": {
        "filter": (Jsonb({"queue": "default"}), Jsonb({"state": "FAILED"})),
        "max_jobs": (1000, 1),
        "dry_run": (True, False),
    },
    "create_token": {
        "principal": ("rota_operator", "rota_worker"),
        "expires_at": (None, datetime(2200, 1, 1, tzinfo=UTC)),
        "note": (None, "of the shop"),
        "hash": (None, b"3" * 32),
    },
    "revoke_token": {"token_id": (1, 2)},
    "authenticate_token": {"hash": (b"1" * 32, b"3" * 32)},
    "principal_of": {"hash": (b"1" * 32, b"3" * 32)},
    "pause_queue": {"queue": ("default", "mail")},
    "resume_queue": {"queue": ("default", "mail")},
    "configure_queue": {
        "queue": ("mail", "post"),
        "max_retries": (None, 4),
        "backoff_base": (None, HOUR),
        "backoff_cap": (None, HOUR),
        "timeout": (None, HOUR),
        "unset": (None, ["timeout"]),
        "max_running": (None, 4),
        "max_starts": (None, 4),
        "starts_period": (None, HOUR),
        "key_max_running": (None, 4),
        "key_max_starts": (None, 4),
        "key_starts_period": (None, HOUR),
        "key_in_order": (None, True),
        "keep_completed": (None, HOUR),
        "keep_failed": (None, HOUR),
    },
    "configure_key": {
        "queue": ("mail", "post"),
        "key": ("acme", "other"),
        "max_running": (None, 4),
        "max_starts": (None, 4),
        "starts_period": (None, HOUR),
        "unset": (None, ["max_running"]),
    },
    "configure_retention": {
        "retention": (7 * DAY, 8 * DAY),
        "keep_completed": (None, HOUR),
        "keep_failed": (None, HOUR),
    },
    "wall": {"principal": ("rota_reader", "rota_worker"), "queue_pattern": ("a.*", "b")},
    "unwall": {"principal": ("rota_reader", "rota_worker"), "queue_pattern": ("a.*", "b")},
    "pause_schedule": {"name": ("tick", "tock")},
    "resume_schedule": {"name": ("tick", "tock")},
    "trigger_schedule": {"name": ("tick", "tock")},
    "delete_schedule": {"name": ("tick", "tock")},
    "backfill_schedule": {
        "name": ("tick", "tock"),
        "starts_at": (START, START + HOUR),
        "ends_at": (START + 3 * HOUR, START + 4 * HOUR),
    },
    "shard_of": {"key": ("k0", "k3"), "n": (4, 1)},
    "next_run": {
        "cron": ("0 9 * * *", "0 10 * * *"),
        "time_zone": ("UTC", "Asia/Tokyo"),
        "after": (START, START + DAY),
    },
    "preview_schedule": {
        "cron": ("0 9 * * *", "0 10 * * *"),
        "every": (None, HOUR),
        "time_zone": ("UTC", "Asia/Tokyo"),
        "n": (10, 3),
        "from_time": (None, START),
        "starts_at": (None, START + DAY),
    },
}
TOGETHER = {  # these replace each other
    ("schedule_job", "cron"): {"every"},
    ("schedule_job", "time_zone"): set(),
    ("preview_schedule", "every"): {"cron"},
    ("finish_job", "next"): {"error", "retry_in"},
}
NO_DEFAULT = {  # that a call here could do with: one of two is needed, or the default is random
    *(("preview_schedule", "cron"), ("schedule_job", "every"), ("finish_job", "retry_in")),
    *(("finish_job", "next"), ("configure_retention", "retention")),
}
NO_WORDS_NEEDED = {
    "binding_principals",
    "check_invariants",
    "maintain",
    "recover_workers",
    "needs_token",
    "shard",
    "statistics_age",
    "version",
    "visible_queues",
}  # functions without parameters


def signatures(conn):
    """The parameters of each function that a role of ours may call, and whether each is needed."""
    rows = conn.execute(
        """
        select p.proname, p.proargnames[1:p.pronargs], p.pronargs - p.pronargdefaults
        from pg_proc as p
        where p.pronamespace = 'rota'::regnamespace and p.proname !~ '^_'
        """
    )
    return {name: (parameters or [], needed) for name, parameters, needed in rows}


def test_no_parameter_is_forgotten_here(conn):
    found = {name: parameters for name, (parameters, _) in signatures(conn).items()}

    assert {name for name, parameters in found.items() if not parameters} == NO_WORDS_NEEDED
    for name, parameters in found.items():
        named = {"max_bytes"} if name == "claim_next_job" and "max_bytes" not in parameters else ()
        if parameters:
            assert set(DIFFERENCES[name]) - set(named) == set(parameters), name


def seen(value):
    """What can be compared between two runs: no ids, tokens or present times."""
    if isinstance(value, datetime):
        left = value - datetime.now(UTC)
        return value.isoformat() if abs(left) > 100 * DAY else f"{round(left / MINUTE / 5)}"
    if isinstance(value, str):
        return re.sub(r"rota_[-\w]{43}", "a token", re.sub(r"pid \d+", "pid", value))
    if isinstance(value, dict):
        return {name: seen(entry) for name, entry in value.items() if name[-3:] != "_at"}
    if isinstance(value, timedelta) and value.microseconds:  # it was measured
        return f"{round(value / MINUTE)} minutes"
    if isinstance(value, float):  # seconds that were measured
        return f"{round(value / MINUTE.total_seconds())} minutes"
    return "a token" if isinstance(value, UUID) else value


def observed(conn, function, arguments):
    """Call a function, and return what it says and what has become of everything."""
    conn.execute("set time zone 'UTC'")
    try:
        with conn.transaction():
            told = call(conn, function, **arguments)
    except psycopg.Error as error:
        told = error.sqlstate
    cursor = conn.cursor(row_factory=dict_row)
    rows = [cursor.execute(query).fetchall() for query in SEEN]
    if isinstance(told, list):
        rows.append(told)
    return [
        told if isinstance(told, str) else "",
        *(
            sorted(
                repr(
                    {
                        name: seen(value)
                        for name, value in row.items()
                        if name not in ("id", "job_id", "job_ids", "token_id", "workflow_id")
                    }
                )
                for row in some
            )
            for some in rows
        ),
    ]


def attempt(connect, function, parameter=None, value=None, leave_out=False):
    """Set the scene, call with one argument changed, look, and take all of it back."""
    conn = connect(autocommit=False)
    arguments = SCENES[function](conn) or {}
    for replaced in TOGETHER.get((function, parameter), ()):
        if value is not None:
            arguments.pop(replaced, None)
    if leave_out:
        arguments.pop(parameter, None)
    elif parameter:
        if isinstance(value, list) and value and isinstance(value[0], int | UUID):
            held = arguments[parameter]
            value = held if min(value, key=str) == value[0] else held[::-1]
        elif value in (1, UUID(int=1)) and parameter in ("job_id", "token"):
            value = arguments.get(parameter)
        elif parameter in ("token_id", "workflow_id"):
            value += arguments[parameter] - 1
        elif value == 2 and parameter == "job_id":
            value = first_jobs(conn, 2)[1]
        arguments[parameter] = value
    found = observed(conn, function, arguments)
    conn.rollback()
    conn.close()
    return found


CASES = [(name, p) for name, parameters in DIFFERENCES.items() for p in parameters]


@pytest.mark.leaves_nothing
@pytest.mark.parametrize(("function", "parameter"), CASES)
def test_each_parameter_makes_a_difference_and_its_default_is_what_is_documented(
    connect, conn, function, parameter
):
    parameters, needed = signatures(conn)[function]
    if parameter not in parameters:
        pytest.skip("not there yet")
    one, other = DIFFERENCES[function][parameter]

    first = attempt(connect, function, parameter, one)

    assert first != attempt(connect, function, parameter, other)
    if parameters.index(parameter) >= needed and (function, parameter) not in NO_DEFAULT:
        assert first == attempt(connect, function, parameter, leave_out=True)


KEPT = [HOUR, "100 years"]
NOT_KEPT = [HOUR - TICK, "101 years"]
PERIODS = [timedelta(milliseconds=1), 366 * DAY]
NO_PERIODS = [timedelta(0), timedelta(microseconds=999), 366 * DAY + TICK, "1 month"]
JOB_LIMITS = {
    "task": (["t", "t" * 200], ["", "t" * 201, None, "a\x1bb"]),
    "payload": ([Jsonb(None), Jsonb([])], [None]),
    "queue": (["q", "q" * 100], ["", "q" * 101, None, "a\x1bb"]),
    "priority": ([-100, 100], [-101, 101, None]),
    "max_retries": ([0, 1000, None], [-1, 1001]),
    "timeout": (
        [TICK, 366 * DAY, None],
        [timedelta(0), -TICK, 366 * DAY + TICK, "1 month -29 days"],
    ),
    "headers": (
        [Jsonb({}), Jsonb({"a" * 100: "", "x-1._~": "ü"}), Jsonb({"a": "b" * 8183}), None],
        [
            *(Jsonb("a"), Jsonb([]), Jsonb({"a": 1}), Jsonb({"a": None}), Jsonb({"a": {}})),
            *(Jsonb({"": "b"}), Jsonb({"a" * 101: "b"}), Jsonb({"A": "b"}), Jsonb({"a b": "b"})),
            *(Jsonb({"a": "b", "ü": "b"}), Jsonb({"a": "1\r\n2"}), Jsonb({"a": "b" * 8184})),
        ],
    ),
    "key": (["k", "k" * 200, None], ["", "k" * 201]),
}
STEP_NAMES = (["n", "n" * 200], ["", "n" * 201, "a\x1bb", None])
DELAYS = (
    [timedelta(0), 366 * DAY],
    [-TICK, 366 * DAY + TICK, "1 month -29 days -1 second", None],
)
LIMITS = {
    "enqueue_many": {name: limit for name, limit in JOB_LIMITS.items() if name != "payload"}
    | {
        "payloads": ([Jsonb([]), Jsonb([None])], [Jsonb({}), Jsonb(None), Jsonb(1), None]),
        "run_at": ([FIRST, LAST, None], [FIRST - TICK, LAST + TICK, "infinity"]),
    },
    "enqueue_job": JOB_LIMITS
    | {
        "run_at": ([FIRST, LAST, None], [FIRST - TICK, LAST + TICK, "infinity"]),
        "unique_key": (["k", "k" * 500, None], ["", "k" * 501]),
        "unique_for": (
            [TICK, 366 * DAY, None],
            [timedelta(0), -TICK, 366 * DAY + TICK, "1 month -29 days"],
        ),
        "replace": ([True, False, None], []),
    },
    "schedule_job": JOB_LIMITS
    | {
        "every": (
            [timedelta(milliseconds=1), "100 years"],
            [timedelta(0), timedelta(microseconds=999), "100 years 1 day", "1 mon -1 day", None],
        ),
        "time_zone": (["Etc/GMT+12", "Etc/GMT-14", "GB"], ["CET", "Etc/GMT+13", None, "UTC+1"]),
        "starts_at": ([FIRST, START + 999 * DAY, None], [FIRST - TICK, "infinity"]),
        "name": (["n", "n" * 200, None], ["", "n" * 201, "a\x1bb"]),
        "misfire": (["skip", "once", "all"], ["", "never", None]),
        "ends_at": ([START + TICK, LAST, None], [START, LAST + TICK, FIRST - TICK]),
        "max_runs": ([1, None], [0, -1]),
        "fixed_delay": ([True, False], [None]),
        "jitter": ([timedelta(0), DAY], [-TICK, DAY + TICK, None]),
        "misfire_cap": ([1, 1000], [0, 1001, None]),
        "max_lateness": ([TICK, "100 years", None], [timedelta(0), "100 years 1 day"]),
        "overlap": (["coalesce", "catch_up"], ["", "allow", None]),
    },
    "claim_next_job": {
        "queues": ([["default"], []], [None]),
        "lease": ([TICK, 30 * DAY], [timedelta(0), -TICK, 30 * DAY + TICK, None]),
        "max_jobs": ([1, 10_000], [0, 10_001, None]),
    },
    "finish_job": {
        "retry_in": ([timedelta(0), 366 * DAY, None], [-TICK, 366 * DAY + TICK]),
        "next": ([Jsonb([]), None], [Jsonb(None), Jsonb({}), Jsonb([1]), Jsonb([{}])]),
    },
    "enqueue_workflow": {
        "jobs": ([], [Jsonb([]), Jsonb(None), Jsonb({}), Jsonb([1]), Jsonb([{}]), None]),
        "name": (["n", "n" * 200, None], ["", "n" * 201, "a\x1bb"]),
    },
    "cancel_workflow": {"reason": (["r" * 1000, None], ["r" * 1001])},
    "record_step": {"step": STEP_NAMES},
    "sleep_job": {"step": STEP_NAMES, "delay": DELAYS},
    "await_event": {"step": STEP_NAMES, "event": STEP_NAMES, "timeout": DELAYS},
    "emit_event": {"event": STEP_NAMES},
    "finish_jobs": {
        "job_ids": ([], [[], None]),
        "tokens": ([], [[], None]),
        "errors": ([None, [], [None, None]], [[None], [None] * 3]),
        "results": ([None, [], [None, None]], [[None], [None] * 3]),
    },
    "heartbeat_job": {
        "lease": ([TICK, 30 * DAY], [timedelta(0), -TICK, 30 * DAY + TICK, None]),
    },
    "heartbeat_jobs": {
        "job_ids": ([], [[], None]),
        "tokens": ([], [[], None]),
        "lease": ([TICK, 30 * DAY], [timedelta(0), -TICK, 30 * DAY + TICK, None]),
    },
    "release_job": {
        "delay": (
            [timedelta(0), 366 * DAY, None],
            [-TICK, 366 * DAY + TICK, "1 month -29 days -1 second"],
        )
    },
    "announce_worker": {
        "worker": (["w", "w" * 200], ["", "w" * 201, None]),
        "queues": ([], [None]),
    },
    "do_chores": {"max_jobs": ([1, 100_000], [0, 100_001, None])},
    "doctor": {"max_age": ([timedelta(0), DAY], [-TICK, DAY + TICK, None])},
    "recover_jobs": {"max_jobs": ([1, 100_000], [0, 100_001, None])},
    "take_census": {"older_than": ([timedelta(0), DAY], [-TICK, DAY + TICK, None])},
    "roll_up": {"max_minutes": ([1, 100_000], [0, 100_001, None])},
    "cancel_job": {"reason": (["r" * 1000, None], ["r" * 1001])},
    "cancel_jobs": {
        "reason": (["r" * 1000, None], ["r" * 1001]),
        "max_jobs": ([1, 10_000], [0, 10_001, None]),
        "filter": (
            [Jsonb({"state": "RUNNING"}), Jsonb({"ids": []})],
            [Jsonb({}), Jsonb([]), None, Jsonb({"finished_at_from": "2030-01-01"})],
        ),
    },
    "retry_jobs": {
        "max_jobs": ([1, 10_000], [0, 10_001, None]),
        "filter": (
            [Jsonb({"finished_at_from": "2030-01-01"})],
            [Jsonb({}), None, Jsonb({"state": "RUNNING"}), Jsonb({"queue": None})],
        ),
    },
    "create_token": {
        "expires_at": ([LAST, None], [FIRST, "infinity", "-infinity"]),
        "note": (["n" * 200, None], ["n" * 201, "a\x1bb"]),
        "hash": ([b"h" * 32, None], [b"h" * 31, b"h" * 33]),
    },
    "pause_queue": {"queue": (["mail"], ["", "q" * 101, None, "a\x1bb"])},
    "resume_queue": {"queue": (["mail"], ["", "q" * 101, None, "a\x1bb"])},
    "configure_queue": {
        "queue": (["q" * 100], ["", "q" * 101, None, "a\x1bb"]),
        "max_retries": ([0, 1000], [-1, 1001]),
        "backoff_base": ([TICK, 366 * DAY], [timedelta(0), 366 * DAY + TICK]),
        "backoff_cap": ([TICK, 366 * DAY], [timedelta(0), 366 * DAY + TICK]),
        "timeout": ([TICK, 366 * DAY], [timedelta(0), 366 * DAY + TICK, "1 month -29 days"]),
        "max_running": ([1, 1_000_000], [0, -1, 1_000_001]),
        "max_starts": ([1, 1_000_000], [0, -1, 1_000_001]),
        "starts_period": (PERIODS, NO_PERIODS),
        "key_max_running": ([1, 1_000_000], [0, -1, 1_000_001]),
        "key_max_starts": ([1, 1_000_000], [0, -1, 1_000_001]),
        "key_starts_period": (PERIODS, NO_PERIODS),
        "key_in_order": ([True, False], []),
        "keep_completed": ([timedelta(0), *KEPT], [TICK, *NOT_KEPT]),
        "keep_failed": (KEPT, [timedelta(0), *NOT_KEPT]),
    },
    "configure_key": {
        "queue": (["q" * 100], ["", "q" * 101, None, "a\x1bb"]),
        "key": (["k", "k" * 200], ["", "k" * 201, None]),
        "max_running": ([1, 1_000_000], [0, -1, 1_000_001]),
        "max_starts": ([1, 1_000_000], [0, -1, 1_000_001]),
        "starts_period": (PERIODS, NO_PERIODS),
    },
    "configure_retention": {
        "retention": (KEPT, [timedelta(0), *NOT_KEPT]),
        "keep_completed": ([timedelta(0), *KEPT], [TICK, *NOT_KEPT]),
        "keep_failed": (KEPT, [timedelta(0), *NOT_KEPT]),
    },
    "backfill_schedule": {
        "starts_at": ([START + 3 * HOUR - TICK], [START + 3 * HOUR, None, "-infinity"]),
        "ends_at": (
            [START + TICK, START + 1000 * HOUR],
            [START, None, "infinity", START + 1000 * HOUR + TICK],
        ),
    },
    "shard_of": {"n": ([1, 1024], [0, 1025, None])},
    "next_run": {
        "after": ([FIRST, LAST], [FIRST - TICK, LAST + TICK]),
        "cron": (["* * * * *"], ["* * * *", "60 * * * *"]),
        "time_zone": (["Asia/Tokyo"], ["JST"]),
    },
    "preview_schedule": {
        "n": ([1, 1000], [0, 1001, None]),
        "from_time": ([FIRST + TICK, LAST, None], [FIRST - TICK, LAST + TICK]),
        "starts_at": ([FIRST, LAST, None], [FIRST - TICK, LAST + TICK]),
    },
}
LIMIT_CASES = [
    pytest.param(
        function, parameter, value, good, id=f"{function}-{parameter}-{value!s:.20}-{good}"
    )
    for function, parameters in LIMITS.items()
    for parameter, (accepted, refused) in parameters.items()
    for good, values in ((True, accepted), (False, refused))
    for value in values
]


@pytest.mark.leaves_nothing
@pytest.mark.parametrize(("function", "parameter", "value", "good"), LIMIT_CASES)
def test_each_parameter_is_held_to_its_range(connect, function, parameter, value, good):
    conn = connect(autocommit=False)
    arguments = (SCENES[function](conn) or {}) | {parameter: value}

    if good:
        call(conn, function, **arguments)
    else:
        with pytest.raises(psycopg.Error) as caught:
            call(conn, function, **arguments)
        assert caught.value.sqlstate in ("RTV01", "RTV02"), caught.value
    conn.rollback()


@pytest.mark.parametrize("parameter", [*LIMITS["enqueue_job"]])
def test_a_bulk_holds_its_jobs_to_the_same_ranges(connect, parameter):
    conn = connect(autocommit=False)
    accepted, refused = LIMITS["enqueue_job"][parameter]

    def enqueue(value):
        if isinstance(value, timedelta):
            value = f"{value / TICK:.0f} us"
        value = value.isoformat() if isinstance(value, datetime) else getattr(value, "obj", value)
        with conn.transaction():
            job = {"task": "work", "unique_key": "held", parameter: value}
            return call(conn, "enqueue_jobs", jobs=Jsonb([job]))

    for value in accepted:
        assert enqueue(value)
    for value in refused:
        if value is None and parameter != "task":
            continue  # left out
        with pytest.raises(psycopg.Error) as caught:
            enqueue(value)
        assert caught.value.sqlstate == "RTV01"
    conn.rollback()


def test_a_bulk_gives_each_job_what_a_single_call_gives_it(conn):
    """Beside a queue whose settings differ, and the queue that is the default."""
    call(conn, "configure_queue", queue="default", max_retries=8, timeout=8 * MINUTE)
    call(conn, "configure_queue", queue="mail", max_retries=9, timeout=9 * MINUTE)
    values = {
        "payload": {"n": 1},
        "queue": "mail",
        "run_at": START.isoformat(),
        "priority": 5,
        "max_retries": 0,
        "timeout": "00:00:07",
        "unique_key": "k",
        "headers": {"a": "b"},
        "key": "acme",
    }
    requests = [{}, {"queue": "post"}, values] + [{name: values[name]} for name in values]
    cursor = conn.cursor(row_factory=dict_row)

    def made(jobs):
        rows = cursor.execute("select * from rota.jobs where id = any(%s)", [jobs]).fetchall()
        for row in rows:
            if row["unique_key"]:
                call(conn, "cancel_job", job_id=row["id"])
        by_id = {row["id"]: row for row in rows}
        return [
            {name: seen(value) for name, value in by_id[job_id].items() if name != "id"}
            for job_id in jobs
        ]

    for request in requests:
        (row,) = call(
            conn,
            "enqueue_job",
            task="work",
            **{name: Jsonb(v) if type(v) is dict else v for name, v in request.items()},
        )
        (single,) = made([row["job_id"]])
        (row,) = call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "work", **request}]))
        assert made([row["job_id"]]) == [single], request
        if "unique_key" not in request:
            (row,) = call(
                conn,
                "enqueue_many",
                task="work",
                payloads=Jsonb([request.get("payload", {})]),
                **{
                    name: Jsonb(value) if type(value) is dict else value
                    for name, value in request.items()
                    if name != "payload"
                },
            )
            assert made([row["job_id"]]) == [single], request
        expected = {"": (8, 8), "mail": (9, 9), "post": (3, None)}[request.get("queue", "")]
        retries = request.get("max_retries", expected[0])
        timeout = (
            timedelta(seconds=7) if "timeout" in request else (expected[1] and expected[1] * MINUTE)
        )
        assert (single["max_retries"], single["timeout"]) == (retries, timeout)
