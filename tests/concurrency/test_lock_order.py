"""One lock order for all tables, as docs/inside.md has it: read off every function as it waits.

A table, or the rows of one, is locked by a blocker, and the function called. If it waits there, it
must not hold what comes later in the order; the locks that it has are in pg_locks. Done in sessions
that plan the function's statements then, and in such that have their plans already, for a plan
opens tables in an order of its own.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from db.gateway import call
from tests.concurrency.sessions import Session, forget_cursors
from tests.conftest import Clock

Arguments = dict[str, Any]
HOUR = timedelta(hours=1)


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


def old_weeks(conn: Connection, clock: Clock) -> Arguments:
    finished(conn, clock)
    call(conn, "configure_retention", retention=timedelta(days=7))
    clock.advance(timedelta(days=50))
    return {}


def given(**arguments: Any) -> Callable[[Connection, Clock], Arguments]:
    return lambda conn, clock: arguments


WORKER = {"worker": "w", "host": "h", "pid": 1, "queues": ["a"], "concurrency": 1, "version": "v"}

# What each function does, in the cases that take it furthest.
CALLS: list[tuple[str, Callable[[Connection, Clock], Arguments], Arguments]] = [
    ("enqueue_job", given(task="t", unique_key="k"), {}),
    ("enqueue_jobs", given(jobs=Jsonb([{"task": "t"}, {"task": "t", "unique_key": "k"}])), {}),
    ("schedule_job", given(task="t", every=HOUR, name="new"), {}),
    ("schedule_job", put_back, {}),
    ("next_run", given(cron="@daily", time_zone="UTC", after="2030-01-01"), {}),
    ("preview_schedule", given(every=HOUR), {}),
    ("claim_next_job", waiting, {}),
    ("claim_next_job", missed, {}),
    ("claim_next_job", missed_and_over, {}),
    ("finish_job", running, {}),
    ("finish_job", running, {"error": "x"}),
    ("finish_job", running, {"error": "x", "retry": False}),
    ("finish_job", running_schedule, {}),
    ("finish_job", finished, {}),
    ("finish_jobs", batch, {}),
    ("finish_jobs", batch, {"errors": ["x", None]}),
    ("heartbeat_job", running, {}),
    ("heartbeat_jobs", batch, {}),
    ("release_job", running, {}),
    ("release_job", running_schedule, {}),
    ("hold_lease", running, {}),
    ("begin_sleep", given(queues=["a"]), {}),
    ("end_sleep", given(queues=[]), {}),
    ("announce_worker", given(**WORKER), {}),
    ("dismiss_worker", given(worker="w"), {}),
    ("recover_jobs", lost, {}),
    ("maintain", old_weeks, {}),
    ("cancel_job", lambda conn, clock: {"job_id": enqueue(conn)}, {}),
    ("cancel_job", lambda conn, clock: {"job_id": running(conn, clock)["job_id"]}, {}),
    ("retry_job", failed, {}),
    ("pause_queue", given(queue="default"), {}),
    ("resume_queue", given(queue="default"), {}),
    ("pause_schedule", named, {}),
    ("resume_schedule", paused, {}),
    ("trigger_schedule", paused, {}),
    ("backfill_schedule", named, {"starts_at": "2030-01-01", "ends_at": "2030-01-02"}),
    ("delete_schedule", named, {}),
    ("configure_queue", given(queue="default", max_retries=1), {}),
    ("configure_retention", given(retention=timedelta(days=30)), {}),
    ("check_invariants", waiting, {}),
]

# The end of the order: history tables, then their partitions. None stands for the rest.
HISTORY = ["finished_jobs", "attempts"]
STRONG = ["ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"]


def history_locks(conn: Connection, pid: int) -> set[str]:
    """Return what a session has locked of history: a table's name, or one of its partitions."""
    return {
        name
        for (name,) in conn.execute(
            """
            select c.relname
            from pg_locks as l
            join pg_class as c on c.oid = l.relation
            where l.pid = %s
                and l.granted
                and c.relnamespace = 'rota'::regnamespace
                and c.relkind in ('r', 'p')
                and (c.relname like 'finished_jobs%%' or c.relname like 'attempts%%')
            """,
            [pid],
        )
    }


def warm(session: Session, function: str, arguments: Arguments) -> None:
    """Let the session plan what the function does, and undo that."""
    for _ in range(6):
        session.begin()
        session.call(function, **arguments)
        session.rollback()


@pytest.mark.parametrize("planned", [False, True], ids=["first call", "planned before"])
@pytest.mark.parametrize(
    ("function", "prepare", "more"),
    CALLS,
    ids=[f"{number}-{function}" for number, (function, *_) in enumerate(CALLS)],
)
def test_history_is_opened_in_one_order_and_its_partitions_last(
    conn, session, connect, clock, function, prepare, more, planned
):
    arguments = prepare(conn, clock) | more
    forget_cursors(conn)
    blocker, one = connect(autocommit=False), session()
    if planned:
        warm(one, function, arguments)

    for number, table in enumerate(HISTORY):
        blocker.execute(
            sql.SQL("lock table only {} in access exclusive mode").format(
                sql.Identifier("rota", table)
            )
        )
        one.begin()
        started = one.start(function, **arguments)
        if started.waits():
            locked = history_locks(conn, one.conn.info.backend_pid)
            earlier = set(HISTORY[:number])
            assert not {name for name in locked if name not in HISTORY} or function == "maintain"
            assert locked & set(HISTORY) <= earlier, f"{function} waits for {table}"
        blocker.rollback()
        started.answer()
        one.rollback()


@pytest.mark.parametrize("rows", ["live_jobs", "schedules"])
@pytest.mark.parametrize(
    ("function", "prepare", "more"),
    CALLS,
    ids=[f"{number}-{function}" for number, (function, *_) in enumerate(CALLS)],
)
def test_no_row_is_waited_for_by_who_has_opened_history(
    conn, session, connect, clock, function, prepare, more, rows
):
    arguments = prepare(conn, clock) | more
    blocker, one = connect(autocommit=False), session()
    blocker.execute(sql.SQL("select from {} for update").format(sql.Identifier("rota", rows)))

    one.begin()
    started = one.start(function, **arguments)
    if started.waits():
        assert not history_locks(conn, one.conn.info.backend_pid)
    blocker.rollback()
    started.answer()
    one.rollback()


def test_nobody_but_maintain_locks_a_table_against_others(conn, session, clock):
    one = session()
    for function, prepare, more in CALLS:
        if function == "maintain":
            continue
        conn.execute("delete from rota.schedules; delete from rota.live_jobs")
        arguments = prepare(conn, clock) | more
        one.begin()
        one.call(function, **arguments)

        locked = conn.execute(
            """
            select c.relname, l.mode
            from pg_locks as l
            join pg_class as c on c.oid = l.relation
            where l.pid = %s and c.relnamespace = 'rota'::regnamespace and l.mode = any(%s)
            """,
            [one.conn.info.backend_pid, STRONG],
        ).fetchall()

        one.rollback()
        assert locked == [], function


def test_every_function_that_somebody_may_call_is_among_these(conn):
    callable_by_somebody = {
        name
        for (name,) in conn.execute(
            """
            select distinct p.proname
            from pg_proc as p
            cross join aclexplode(p.proacl) as a
            where p.pronamespace = 'rota'::regnamespace and a.grantee <> p.proowner
            """
        )
    }

    assert callable_by_somebody - {"version"} == {function for function, *_ in CALLS}
