"""No setting that a session may have changes what Rota does: each is tried, one after the other.

The scenario goes through most functions in one transaction, by a clock that stands still unless it
is moved, and is rolled back. Its answers, in binary form, must be those that it gives by default.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection, sql

from rota.db.gateway import call
from tests import hostile

# Settings that say what a transaction is, end a session, or tell how the caller's own arguments are
# to be read.
LEFT_OUT = {
    "array_nulls": "read by array literals, which are the caller's",
    "default_transaction_isolation": "a claim refuses all but READ COMMITTED, see test_claim",
    "exit_on_error": "ends the session at errors that are caught, too",
    "transaction_deferrable": "of the transaction that runs",
    "transaction_isolation": "of the transaction that runs",
    "transaction_read_only": "of the transaction that runs",
    "ignore_checksum_failure": "harmful to the server under test",
    "max_stack_depth": "more than the platform has is refused",
    "zero_damaged_pages": "harmful to the server under test",
}

# Settings that are no booleans nor enumerations, with values that matter.
VALUES = {
    "DateStyle": ["SQL, DMY", "SQL, MDY", "Postgres, DMY", "Postgres, MDY", "German", "ISO, YMD"],
    "TimeZone": ["Australia/Lord_Howe", "America/St_Johns", "Pacific/Apia", "XYZ-5:30"],
    "timezone_abbreviations": ["Australia", "India"],
    "client_encoding": ["LATIN1", "GB18030", "EUC_JP"],
    "search_path": ["", "pg_temp", "information_schema, pg_catalog"],
    "extra_float_digits": ["-15", "3"],
    "lc_monetary": ["C.utf8"],
    "lc_numeric": ["C.utf8"],
    "lc_time": ["C.utf8"],
    "default_text_search_config": ["pg_catalog.turkish"],
    "default_tablespace": ["pg_global"],
    "temp_tablespaces": ["pg_default"],
    "plpgsql.extra_errors": ["all"],
    "plpgsql.extra_warnings": ["all"],
    "rota.anything": ["x"],
}

NOW = "2027-03-27 23:30:00+00"  # Berlin's clocks skip an hour three hours later

CLOCK = """
    create table rota_test.fixed as select %s::timestamptz as now;

    create or replace function rota._now()
        returns timestamptz
        language sql
        stable
    as $$
        select f.now from rota_test.fixed as f
    $$;
"""


@pytest.fixture
def session(db: str) -> Iterator[Connection]:
    """A connection that reads values in binary form, to a database whose clock stands still."""
    with hostile.connect(db, autocommit=True) as conn:
        conn.execute(sql.SQL(CLOCK.replace("%s", "{}")).format(NOW))
        yield conn


def scenario(conn: Connection) -> list[Any]:
    """Call most functions; return their answers."""
    seen: list[Any] = []

    def do(function: str, **arguments: Any) -> list[dict[str, Any]]:
        rows = call(conn, function, **arguments)
        seen.append((function, [tuple(map(plain, row.items())) for row in rows]))
        return rows

    def plain(item: tuple[str, Any]) -> Any:
        return None if item[0] == "token" else item[1]

    def refused(function: str, **arguments: Any) -> None:
        with pytest.raises(psycopg.Error) as caught, conn.transaction():
            call(conn, function, **arguments)
        diagnosis = caught.value.diag
        seen.append((diagnosis.sqlstate, diagnosis.message_primary, diagnosis.message_hint))

    def advance(hours: int) -> None:
        conn.execute("update rota_test.fixed set now = rota._later(now, %s)", [f"{hours} hours"])

    def look(query: str) -> None:
        with conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            rows = cursor.execute(query).fetchall()
        seen.append([tuple(map(plain, row.items())) for row in rows])

    conn.execute("alter sequence rota.job_ids restart")
    conn.execute("select setseed(0.5)")  # for the backoff
    do("enqueue_job", task="first", queue="other", run_at="2027-03-01 00:00+00")
    do("enqueue_job", task="keyed", priority=3, timeout="1 day", unique_key="k")
    do("enqueue_job", task="keyed", priority=3, timeout="1 day", unique_key="k")
    do(
        "enqueue_jobs",
        jobs="""[
        {"task": "b", "payload": {"number": 1.50}, "run_at": "2027-03-28T03:00:00+02:00"},
        {"task": "z", "unique_key": "z", "timeout": "1 day 02:00:00"},
        {"task": "i", "unique_key": "I"}
    ]""",
    )
    do(
        "schedule_job", task="cron", name="cron", cron="@Daily", time_zone="Europe/Berlin",
        starts_at="2027-03-20 00:00+00",
    )  # fmt: skip
    do("schedule_job", task="late", name="late", cron="0 */6 * * fri,Sat,sun", misfire="all")
    do("schedule_job", task="grid", name="grid", every="1 day 01:00:00", time_zone="Europe/Berlin",
        max_lateness="2 days 03:00:00")  # fmt: skip
    do("schedule_job", task="after", name="after", every="1 day", fixed_delay=True)
    do("preview_schedule", cron="30 2 * * *", time_zone="Europe/Berlin", n=3)
    do("preview_schedule", every="1 day", time_zone="Australia/Lord_Howe", n=10)
    do("next_run", cron="15 14 L * FRI", time_zone="America/New_York", after=NOW)

    claimed = do("claim_next_job", queues=["default", "other"], max_jobs=4, lease="2 days",
        worker="w")  # fmt: skip
    pairs = [{"job_id": job["id"], "token": job["token"]} for job in claimed]
    do("heartbeat_job", **pairs[0], lease="10 days", progress='{"done": 0.25}')
    do("finish_job", **pairs[0], error="no", retry_in="9 days")
    do("finish_job", **pairs[1], result='{"n": [1, null, "a"]}')
    do("finish_job", **pairs[1], result='{"n": [1, null, "a"]}')
    do("release_job", **pairs[2], delay="1 day")
    advance(49)
    do("recover_jobs")
    advance(24 * 9)
    for queues in (["default"], ["other", "default"]):
        jobs: list[dict[str, Any]] = []
        claim = {"queues": queues, "max_jobs": 20, "worker": "w", "max_bytes": 10_000}
        while batch := call(conn, "claim_next_job", **claim):  # a call may leave some to the next
            jobs += batch
        seen.append([tuple(map(plain, job.items())) for job in jobs])
        for job in jobs:
            do("finish_job", job_id=job["id"], token=job["token"])
    do("next_due_in", queues=["default", "other"], within="1 day")
    do("pause_schedule", name="grid")
    do("trigger_schedule", name="after")
    advance(24 * 20)
    do("resume_schedule", name="grid")
    do("backfill_schedule", name="cron", starts_at="2027-03-26 00:00Z", ends_at="2027-04-02 00:00Z")
    do("backfill_schedule", name="cron", starts_at="2027-03-27 00:00Z", ends_at="2027-04-03 00:00Z")
    do("configure_queue", queue="other", backoff_base="1 day", timeout="1 day 01:00:00")
    do("pause_queue", queue="other")
    do("resume_queue", queue="other")
    do("cancel_job", job_id=call(conn, "enqueue_job", task="c")[0]["job_id"], reason="no need")
    do("retry_job", job_id=conn.execute("select max(id) from rota.jobs").fetchone()[0])
    conn.execute(
        "update rota.chores set until = '2027-03-27 23:00Z', ready_until = '2027-05-01Z', xid = '3'"
        " where chore = 'roll_up'"
    )
    do("roll_up")
    do("roll_up")
    do("take_census")
    look(
        """
        select
            minute, queue, task, outcome, ended, gave_up, firsts, ran_histogram, waited_histogram
        from rota.attempt_minutes
        order by minute, queue collate "C", task collate "C", outcome collate "C"
        """
    )
    look('select * from rota.queue_census order by queue collate "C", task collate "C", priority')
    look('select * from rota.queue_depths order by queue collate "C"')
    do("maintain")
    do("announce_worker", worker="w", host="h", pid=1, queues=["q"], concurrency=1, version="v")
    refused("next_due_in", within="1 day 02:03:04.5")
    refused("claim_next_job", lease="-1 day -02:03:04.5")
    refused("finish_job", **pairs[1], retry_in="400 days 1.5 seconds")
    refused("enqueue_job", task="t", run_at="9999-02-01 13:00:00.25+00")
    refused("enqueue_job", task="t", timeout="1 year 2 months")
    refused("schedule_job", task="t", every="-1 days +02:00:00")
    refused("schedule_job", task="t", every="1 hour", ends_at="2001-02-03 04:05:06+00")
    refused("schedule_job", task="t", every="1 hour", jitter="2 days")
    refused("next_run", cron="0 0 * * SON", time_zone="UTC", after=NOW)
    refused("next_run", cron="0 0 * * *", time_zone="CET", after=NOW)
    refused("next_run", cron="0 0 * * *", time_zone="UTC", after="infinity")
    refused("configure_retention", retention="00:59:59")
    do("check_invariants")
    look("select * from rota.jobs order by id")
    look("select * from rota.executions order by job_id, run, attempt, started_at")
    look("select * from rota.schedule_status order by job_id")
    look('select * from rota.queue_status order by queue collate "C"')
    conn.execute("set local datestyle = 'ISO'")
    conn.execute("set local timezone = 'UTC'")
    conn.execute("set local quote_all_identifiers = off")
    look(
        """
        select c.relname, pg_get_expr(c.relpartbound, c.oid) as bound, c.reltablespace, c.relam
        from pg_class as c
        where c.relispartition and c.relnamespace = 'rota'::regnamespace and c.relkind = 'r'
        order by c.relname collate "C"
        """
    )
    return seen


class Undone(Exception):  # noqa: N818
    """Raised to roll a scenario back."""


def run(conn: Connection, name: str | None = None, value: str | None = None) -> list[Any] | str:
    """Run the scenario with a setting; return what it answered, or why it could not."""
    try:
        with conn.transaction():
            if name:
                conn.execute("select set_config(%s, %s, true)", [name, value])
            answers = scenario(conn)
            raise Undone
    except Undone:
        conn.execute("vacuum rota.live_jobs")  # what is undone lies in the way, and claims notice
        return answers
    except psycopg.Error as error:
        return f"{error.sqlstate}: {error} {error.diag.context}"


def difference(found: Any, expected: Any) -> str | None:
    """Show the first value that is another one, if any."""
    if found == expected:
        return None
    if not isinstance(found, list | tuple) or not isinstance(expected, list | tuple):
        return f"{found} instead of {expected}"
    return next(
        filter(None, (difference(*pair) for pair in itertools.zip_longest(found, expected)))
    )


def settings(conn: Connection, kinds: list[str]) -> list[tuple[Any, ...]]:
    """Return what a session may set: name, present value, kind, values, least and greatest.

    Not what is only about logs and statistics, nor limits of time.
    """
    return conn.execute(
        """
        select name, setting, vartype, enumvals, min_val, max_val
        from pg_settings
        where context in ('user', 'superuser') and vartype = any(%s) and name <> all(%s)
            and name !~ '(^log|^track|^trace|^debug_print|timeout$)'
        order by name
        """,
        [kinds, list(LEFT_OUT)],
    ).fetchall()


def try_all(conn: Connection, values: Callable[[tuple[Any, ...]], list[str]], kinds: list[str]):
    run(conn)  # the first time takes long, and a claim that settles takes no longer than it may
    expected = run(conn)
    assert isinstance(expected, list), expected
    differing, tried = {}, 0
    for row in settings(conn, kinds):
        for value in values(row):
            if value != row[1]:
                tried += 1
                if found := difference(run(conn, row[0], value), expected):
                    differing[f"{row[0]} = {value}"] = found
    assert differing == {}
    return tried


LONG = pytest.mark.skipif(os.environ.get("ROTA_HOSTILE") != "all", reason="long: make hostile")


@LONG
def test_no_boolean_or_enumerated_setting_changes_what_rota_does(session):
    tried = try_all(session, lambda row: row[3] or ["on", "off"], ["bool", "enum"])

    assert tried > 70


@LONG
def test_no_number_that_can_be_set_changes_what_rota_does(session):
    tried = try_all(session, lambda row: [row[4], row[5]], ["integer", "real"])

    assert tried > 50


@pytest.mark.parametrize("name", VALUES)
def test_no_other_setting_changes_what_rota_does(session, name):
    expected = run(session)
    assert isinstance(expected, list), expected

    for value in VALUES[name]:
        assert difference(run(session, name, value), expected) is None, value
