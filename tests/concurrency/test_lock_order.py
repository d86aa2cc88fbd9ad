"""One lock order for all tables, as docs/inside.md has it: read off every function as it waits.

A table, or the rows of one, is locked by a blocker, and the function called. If it waits there, it
must not hold what comes later in the order; the locks that it has are in pg_locks. Done in sessions
that plan the function's statements then, and in such that have their plans already, for a plan
opens tables in an order of its own.
"""

import threading
from typing import LiteralString

import pytest
from psycopg import Connection, sql

from tests.calls import CALLS, Arguments, copied, run_out
from tests.concurrency.sessions import Session, forget_cursors
from tests.waiting import wait_until

# The end of the order: history tables, then their partitions. None stands for the rest.
HISTORY = ["finished_jobs", "attempts"]
WRITTEN = [*HISTORY, "receipts"]
UNDER_ANOTHER = "state = 'WAITING'"  # only who has locked a job's row of job_waits locks this one
# Rows that somebody waits for, in the order in which they are locked: table, which, and by what.
ROWS: list[tuple[LiteralString, LiteralString, LiteralString]] = [
    ("workflows", "true", "id"),
    ("events", "true", "name"),
    ("live_jobs", "state <> 'WAITING'", "id"),
    ("job_waits", "true", "job_id"),
    ("live_jobs", UNDER_ANOTHER, "id"),
    ("finished_jobs", "state <> 'COMPLETED'", "id"),
]
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
                and c.relname ~ '^(finished_jobs|attempts|receipts)'
            """,
            [pid],
        )
    }


def blocked(conn: Connection, pid: int) -> bool:
    return conn.execute("select cardinality(pg_blocking_pids(%s)) > 0", [pid]).fetchone() == (True,)


def warm(session: Session, function: str, arguments: Arguments) -> None:
    """Let the session plan what the function does, and undo that."""
    for _ in range(6):
        session.begin()
        session.call(function, **arguments)
        session.rollback()


@pytest.mark.on_every_server
@pytest.mark.parametrize(
    ("function", "prepare", "more"),
    CALLS,
    ids=[f"{number}-{function}" for number, (function, *_) in enumerate(CALLS)],
)
def test_history_is_opened_in_one_order_and_its_partitions_last(
    conn, session, connect, clock, function, prepare, more
):
    arguments = prepare(conn, clock) | more
    forget_cursors(conn)
    blocker, one = connect(autocommit=False), session()

    for planned in (False, True):
        if planned:
            warm(one, function, arguments)
        for number, table in enumerate(WRITTEN):
            blocker.execute(
                sql.SQL("lock table only {} in access exclusive mode").format(
                    sql.Identifier("rota", table)
                )
            )
            one.begin()
            started = one.start(function, **arguments)
            if started.waits():
                locked = history_locks(conn, one.conn.info.backend_pid)
                earlier = set(WRITTEN[:number])
                # Nothing comes after receipts: who has locked them waits for no other partition.
                if table != "receipts" and function != "maintain":
                    assert not {name for name in locked if name not in WRITTEN}
                assert locked & set(WRITTEN) <= earlier, f"{function} waits for {table}"
            blocker.rollback()
            started.answer()
            one.rollback()


@pytest.mark.parametrize("prepared", [False, True], ids=["first look", "prepared before"])
@pytest.mark.parametrize("view", ["jobs", "job_executions", "executions"])
def test_who_reads_a_view_opens_history_in_that_order_too(conn, connect, view, prepared):
    blocker, reader = connect(autocommit=False), connect()
    reader.execute("set plan_cache_mode = force_generic_plan")
    look = sql.SQL("select count(*) from {}").format(sql.Identifier("rota", view))
    if prepared:
        for _ in range(6):
            reader.execute(look, prepare=True)

    for number, table in enumerate(HISTORY):
        blocker.execute(
            sql.SQL("lock table only {} in access exclusive mode").format(
                sql.Identifier("rota", table)
            )
        )
        waits = threading.Thread(target=reader.execute, args=[look], kwargs={"prepare": prepared})
        waits.start()
        if view != "jobs" or table == "finished_jobs":
            wait_until(lambda: blocked(conn, reader.info.backend_pid))
            assert history_locks(conn, reader.info.backend_pid) == set(HISTORY[:number])
        blocker.rollback()
        waits.join()


@pytest.mark.parametrize(
    ("function", "prepare", "more"),
    CALLS,
    ids=[f"{number}-{function}" for number, (function, *_) in enumerate(CALLS)],
)
def test_no_row_is_waited_for_by_who_has_opened_history(
    conn, session, connect, clock, function, prepare, more
):
    arguments = prepare(conn, clock) | more
    blocker, one = connect(autocommit=False), session()

    for rows in ("live_jobs", "schedules"):
        which = sql.SQL(" where state <> 'WAITING'" if rows == "live_jobs" else "")
        blocker.execute(
            sql.SQL("select from {}{} for update").format(sql.Identifier("rota", rows), which)
        )
        one.begin()
        started = one.start(function, **arguments)
        if started.waits():
            # Who brings back what he finds in history locks its schedule, or the parents that live.
            has_looked = function in ("retry_jobs", "retry_workflow")
            assert has_looked or not history_locks(conn, one.conn.info.backend_pid)
        blocker.rollback()
        started.answer()
        one.rollback()


@pytest.mark.parametrize(
    ("function", "prepare", "more"),
    CALLS,
    ids=[f"{number}-{function}" for number, (function, *_) in enumerate(CALLS)],
)
def test_who_waits_for_a_row_holds_none_that_comes_after_it(
    conn, session, connect, clock, function, prepare, more
):
    """Rows of one kind come by id, so one is locked at a time; all that come after it are free."""
    arguments = prepare(conn, clock) | more
    blocker, observer, one = connect(autocommit=False), connect(), session()
    places = [
        (number, name)
        for number, (table, condition, name) in enumerate(ROWS)
        for (name,) in conn.execute(names_of(table, condition, name)).fetchall()
    ]

    for number, name in places:
        table, condition, column = ROWS[number]
        if condition == UNDER_ANOTHER:
            continue
        lock = sql.SQL("select from {} where {} = %s for update").format(
            sql.Identifier("rota", table), sql.Identifier(column)
        )
        blocker.execute(lock, [name])
        forget_cursors(conn)
        one.begin()
        started = one.start(function, **arguments)
        if started.waits():
            later = [place for place in places if place > (number, name)]
            assert free_rows(observer, later) == later, f"{function} waits for {table} {name}"
        blocker.rollback()
        started.answer()
        one.rollback()


def names_of(table: str, condition: LiteralString, column: str) -> sql.Composed:
    return sql.SQL("select {1} from {0} where {2} order by {1}").format(
        sql.Identifier("rota", table), sql.Identifier(column), sql.SQL(condition)
    )


def free_rows(conn: Connection, places: list[tuple[int, int | str]]) -> list[tuple[int, int | str]]:
    """Return those of the rows that nobody has locked."""
    look = sql.SQL("select from {} where {} = %s and {} for update skip locked")
    free = []
    for number, name in places:
        table, condition, column = ROWS[number]
        of_table = sql.Identifier("rota", table), sql.Identifier(column), sql.SQL(condition)
        if conn.execute(look.format(*of_table), [name]).rowcount:
            free.append((number, name))
    return free


def test_nobody_but_maintain_locks_a_table_against_others(conn, session, clock):
    """But for who exchanges a partition of history, and who builds a wall or takes one down.

    Those of walls lock theirs, and the views (inside.md).
    """
    one = session()
    for function, prepare, more in CALLS:
        if function in ("maintain", "wall", "unwall") or prepare in (run_out, copied):
            continue
        conn.execute("delete from rota.schedules; delete from rota.live_jobs")
        conn.execute("delete from rota.job_waits; delete from rota.job_dependencies")
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
                and p.proname <> '_lane' -- which views call
            """
        )
    }

    assert callable_by_somebody == {function for function, *_ in CALLS}
