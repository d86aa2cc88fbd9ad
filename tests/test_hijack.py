"""Nobody becomes the owner of the functions: what a caller planted is run by himself or not at all.

For each role and each function that it may call, traps lie where the role may create something: in
its session's pg_temp, in public where that was granted, in a schema of its own that comes first on
its search path. See traps.sql.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import Connection, sql

from rota.db.deploy import ROLES, deploy
from rota.db.gateway import call
from rota.testing import Clock
from tests.calls import CALLS
from tests.concurrency.sessions import forget_cursors

TRAPS = Path(__file__).with_name("traps.sql").read_text()
VIEWS = (
    *("jobs", "executions", "job_executions", "schedule_status", "queue_status", "worker_status"),
    *("tokens", "actions"),
)
PLACES = {
    "pg_temp": "pg_temp, pg_catalog, rota",
    "public": "public, pg_temp, pg_catalog, rota",
    "a_schema_of_its_own": "a_schema_of_its_own, pg_catalog, rota",
}


class Attacker:
    """A session of a role that has planted traps; what was caught in them, it was told."""

    def __init__(self, conn: Connection, owner: Connection, role: str, place: str) -> None:
        self.conn = conn
        self.notices: list[str] = []
        conn.add_notice_handler(lambda n: self.notices.append(n.message_primary or ""))
        if place != "pg_temp":
            owner.execute(f"create schema if not exists {place}")
            owner.execute(f"grant create, usage on schema {place} to {role}")
        conn.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        conn.execute("select set_config('rota_test.caller', %s, false)", [role])
        conn.execute("set search_path = pg_catalog, pg_temp")
        conn.execute(TRAPS.format(schema=place).encode())
        conn.execute(f"set search_path = {PLACES[place]}")

    @property
    def caught(self) -> list[str]:
        return sorted({notice for notice in self.notices if notice.startswith("TRAP")})

    def planted(self, kind: str) -> int:
        """Say how many traps of a kind there are."""
        (notice,) = [notice for notice in self.notices if notice.startswith("PLANTED")]
        found = re.search(rf'"{kind}": (\d+)', notice)
        return int(found[1]) if found else 0


@pytest.fixture
def attacker(connect: Callable[..., Connection], conn: Connection) -> Iterator[Callable]:
    """Open the session of a role, with traps in a place."""
    yield lambda role, place: Attacker(connect(prepare_threshold=None), conn, role, place)
    conn.execute("drop schema if exists a_schema_of_its_own cascade")


def call_all(one: Attacker, role: str, conn: Connection, clock: Clock) -> set[str]:
    """Call all that the role may call, each in all its cases; return the functions' names."""
    called = set()
    for function, prepare, more in CALLS:
        allowed = conn.execute(
            "select has_function_privilege(%s, p.oid, 'execute') from pg_proc as p"
            " where p.pronamespace = 'rota'::regnamespace and p.proname = %s",
            [role, function],
        ).fetchone()
        if allowed != (True,):
            continue
        conn.execute("delete from rota.schedules; delete from rota.live_jobs")
        conn.execute("delete from rota.job_waits; delete from rota.job_dependencies")
        arguments = prepare(conn, clock) | more
        forget_cursors(conn)
        try:
            call(one.conn, function, **arguments)
        except psycopg.Error as error:
            raise AssertionError(f"{function}: {error}") from error
        called.add(function)
    return called


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("role", ROLES)
def test_no_function_runs_what_its_caller_has_planted(attacker, conn, clock, role, place):
    one = attacker(role, place)
    assert one.planted("type") > 40 and one.planted("function") > 100
    assert one.planted("operator") > 200 and one.planted("relation") > 10

    called = call_all(one, role, conn, clock)

    assert one.caught == []
    assert len(called) > 2


@pytest.mark.parametrize("place", PLACES)
def test_the_views_run_nothing_that_who_reads_them_has_planted(attacker, conn, place):
    for number in range(3):
        call(conn, "enqueue_job", task="t", priority=number)
    (job,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=job["id"], token=job["token"])
    one = attacker("rota_reader", place)

    for view in VIEWS:
        one.conn.execute(sql.SQL("select * from rota.{}").format(sql.Identifier(view))).fetchall()

    assert one.caught == []


# A path as it was, one that leaves out pg_temp, and one that begins with what others may write to.
@pytest.mark.parametrize(
    ("path", "place"),
    [("''", "pg_temp"), ("pg_catalog", "pg_temp"), ("public, pg_catalog", "public")],
)
def test_the_traps_catch_one_function_that_searches_elsewhere_first(
    attacker, conn, clock, path, place
):
    conn.execute(f"alter function rota.preview_schedule set search_path = {path}")
    one = attacker("rota_reader", place)

    call_all(one, "rota_reader", conn, clock)

    assert one.caught


OBJECTS = """
    select c.relname, a.attname, a.atttypid, pg_get_expr(d.adbin, d.adrelid)
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
    left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.relnamespace = 'rota'::regnamespace
    union all
    select p.proname, pg_get_functiondef(p.oid), p.prorettype, null
    from pg_proc as p
    where p.pronamespace = 'rota'::regnamespace
    order by 1, 2
"""


def test_a_deploy_runs_nothing_that_others_planted_in_its_database_s_search_path(
    empty_db, administrate
):
    deploy(empty_db, report=lambda line: None)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        # Whatever it is that falls into a trap has an error, for this session alone names a caller.
        conn.execute("set rota_test.caller = 'nobody'; set search_path = pg_catalog, pg_temp")
        conn.execute(TRAPS.format(schema="public").encode())
        conn.execute("delete from rota._yoyo_migration")
        objects = conn.execute(OBJECTS).fetchall()
        conn.execute("drop view rota.worker_status")
        database = sql.Identifier(conn.info.dbname)
        conn.execute(
            sql.SQL("alter database {} set search_path = public, pg_catalog").format(database)
        )

        deploy(empty_db, report=lambda line: None)

        conn.execute("drop schema public cascade")
        assert conn.execute(OBJECTS).fetchall() == objects
