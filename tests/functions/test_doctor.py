"""What is wrong with an installation: each fault is brought about for real, and doctor finds it."""

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.db.gateway import call
from rota.db.version import FOLDER, checkout_version
from rota.testing import Clock
from tests.conftest import SERVER_VERSION, TEST_SETTINGS
from tests.functions.test_explain_job import (
    World,
    claim,
    enqueue,
    explain,
    schedule,
    serve,
    unsettled,
    workflow,
)
from tests.waiting import wait_until

SECOND, MINUTE, HOUR, DAY = (
    timedelta(seconds=1),
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
)
PAGE = FOLDER.parent / "docs" / "operations.md"
# What is so of any server of the tests: it is fast, not durable.
OF_THE_TESTS = {"durability"} if "off" in TEST_SETTINGS.values() else set()


@pytest.fixture
def world(conn, clock, connect) -> Iterator[World]:
    world = World(conn, clock, connect)
    with world.afterwards:
        yield world


def examine(conn) -> list[dict[str, Any]]:
    rows = call(conn, "doctor")
    worst_first = ["critical", "warning", "note"]
    assert [row["severity"] for row in rows] == sorted(
        (row["severity"] for row in rows), key=worst_first.index
    )
    for row in rows:
        assert row["finding"].endswith((".", "Mars/Olympus", "boom")) or ":" in row["finding"], row
        assert row["remedy"] and "\n" not in row["finding"]
    return rows


def found(conn) -> dict[str, dict[str, Any]]:
    """Return what is found of the test's own making, by the name of its check."""
    return {row["check"]: row for row in examine(conn) if row["check"] not in OF_THE_TESTS}


def alive(world, **arguments):
    serve(world.conn, **{"version": checkout_version(), **arguments})


def recovery(world):
    enqueue(world.conn)
    claim(world.conn)
    world.clock.advance(3 * MINUTE)
    alive(world)


def unserved(world):
    enqueue(world.conn, queue="mail")
    world.clock.advance(2 * MINUTE)


def no_worker(world):
    alive(world)
    world.clock.advance(2 * MINUTE)


def backlog(world):
    enqueue(world.conn)
    world.clock.advance(20 * MINUTE)
    alive(world)


def paused_queue(world):
    enqueue(world.conn)
    call(world.conn, "pause_queue", queue="default")


def locked_jobs(world):
    alive(world)
    enqueue(world.conn)
    world.connect(autocommit=False).execute("select from rota.live_jobs for update")
    world.clock.advance(20 * SECOND)


def stranded(world):
    """The parent went by a hand."""
    alive(world)
    parent, _ = workflow(world.conn, {}, {"depends_on": "previous"})
    world.conn.execute("delete from rota.live_jobs where id = %s", [parent])
    world.afterwards.callback(call, world.conn, "maintain")


def over_timeout(world):
    alive(world)
    enqueue(world.conn, timeout=SECOND)
    claim(world.conn, lease=HOUR)
    world.clock.advance(65 * SECOND)


def no_handler(world):
    alive(world)
    enqueue(world.conn)
    held = claim(world.conn)
    pair = {"job_ids": [held["job_id"]], "tokens": [held["token"]]}
    call(world.conn, "release_unhandled_jobs", **pair, delay=MINUTE)


def silent_worker(world):
    alive(world, worker="gone")
    world.clock.advance(2 * MINUTE)
    alive(world)


def another_version(world):
    serve(world.conn)


def another_clock(world):
    alive(world, clock=datetime.now(UTC) - MINUTE)


def clock_put_back(world):
    alive(world)
    world.clock.advance(-MINUTE)


def overrun(world):
    alive(world, overrun=1)


def late_schedule(world):
    schedule(world)
    world.clock.advance(6 * MINUTE)
    alive(world)


def unsettled_schedule(world):
    unsettled(world)
    alive(world)


def failing_schedule(world):
    schedule(world, max_retries=9)
    for _ in range(3):
        held = claim(world.conn, lease=HOUR)
        call(world.conn, "finish_job", **held, error="boom", retry_in=timedelta(0))


def old_snapshot(world):
    holder = world.connect(autocommit=False, application_name="a report")
    holder.execute("set transaction isolation level repeatable read")
    holder.execute("select from rota.live_jobs")
    world.clock.advance(6 * MINUTE)


def forgotten_slot(world):
    name = f"rota_test_{os.getpid()}"
    world.conn.execute("select pg_create_physical_replication_slot(%s, true)", [name])
    world.afterwards.callback(world.conn.execute, f"select pg_drop_replication_slot('{name}')")


def dead_rows(world):
    """An old snapshot keeps them from being removed, so autovacuum changes nothing of it."""
    world.conn.execute("vacuum rota.workers, rota.live_jobs")
    holder = world.connect(autocommit=False)
    holder.execute("set transaction isolation level repeatable read")
    holder.execute("select from rota.live_jobs")
    world.conn.execute("select rota.enqueue_many('t', jsonb_agg(1)) from generate_series(1, 5001)")
    world.conn.execute(
        "insert into rota.workers (worker, queues, started_at, last_seen_at)"
        " select n, '{}', now(), now() from generate_series(1, 50001) as n"
    )
    world.conn.execute("delete from rota.workers")
    world.conn.execute("delete from rota.live_jobs")
    world.conn.execute("select pg_stat_force_next_flush()")
    wait_until(
        lambda: world.conn.execute(
            "select n_dead_tup > 50000 from pg_stat_all_tables"
            " where schemaname = 'rota' and relname = 'workers'"
        ).fetchone()[0]
    )
    world.clock.advance(10 * MINUTE)


def bloat(world):
    """A few rows that lie at the end of much that is empty."""
    world.conn.execute("alter table rota.live_jobs alter column payload set storage plain")
    world.conn.execute(
        "select rota.enqueue_many('t', jsonb_agg(repeat('x', 7000))) from generate_series(1, 8300)"
    )
    world.conn.execute("delete from rota.live_jobs where id < (select max(id) from rota.live_jobs)")
    world.conn.execute("select pg_stat_force_next_flush()")
    world.conn.execute("vacuum rota.live_jobs")


def held_up(world):
    """Counted is what is over for certain: not while this transaction may have ended a job."""
    call(world.conn, "roll_up")
    holder = world.connect(autocommit=False)
    enqueue(holder)
    for _ in range(3):
        world.clock.advance(6 * MINUTE)
        call(world.conn, "roll_up")


def held_up_by_a_reader(world):
    """One that has no id yet, and so is known by its locks."""
    holder = world.connect(autocommit=False)
    holder.execute("select from rota.live_jobs for update")
    world.clock.advance(6 * MINUTE)
    call(world.conn, "roll_up")
    world.clock.advance(11 * MINUTE)


def nobody_counts(world):
    alive(world)
    world.clock.advance(6 * MINUTE)
    alive(world)


def autovacuum_off(world):
    world.conn.execute("alter table rota.live_jobs set (autovacuum_enabled = false)")


def lost_storage(world):
    world.conn.execute("alter table rota.live_jobs reset (fillfactor)")


def few_weeks(world):
    world.clock.advance(21 * DAY)


def maintained_long_ago(world):
    call(world.conn, "maintain")
    world.clock.advance(2 * DAY)


def ids_behind(world):
    job_id = enqueue(world.conn)
    world.conn.execute("alter sequence rota.job_ids restart")
    world.afterwards.callback(call, world.conn, "cancel_job", job_id=job_id)
    world.afterwards.callback(world.conn.execute, "select nextval('rota.job_ids')")


def set_for_all(world, setting, value):
    world.conn.execute(f'alter database "{world.conn.info.dbname}" set {setting} = {value}')
    world.conn = world.connect()
    world.conn.execute(f"set {setting} = {'on' if value == 'off' else 'off'}")


def not_synchronous(world):
    set_for_all(world, "synchronous_commit", "off")


def read_only(world):
    set_for_all(world, "default_transaction_read_only", "on")


# Each check but those that need a server of their own: its severity, and what its words have in
# them.
CHECKS = {
    "recovery": (recovery, "critical", "The leases of 1 jobs in queue default ran out"),
    "unserved queue": (unserved, "critical", "1 jobs are due in queue mail, the oldest for 2 min"),
    "workers": (no_worker, "critical", "No worker has spoken"),
    "backlog": (backlog, "warning", "1 due jobs in queue default has waited for 20 min"),
    "paused queue": (paused_queue, "note", "Queue default was paused 0 s ago, and 1 jobs"),
    "locked jobs": (locked_jobs, "warning", "1 due jobs of queue default, such as job 1"),
    "stranded jobs": (stranded, "critical", "1 jobs of queue default, such as job "),
    "timeout": (over_timeout, "warning", "1 jobs of queue default run longer than their timeout"),
    "no handler": (no_handler, "warning", "handler for task t"),
    "silent worker": (silent_worker, "warning", "Worker gone (h, pid 1) has not spoken for"),
    "version": (another_version, "warning", "1 workers have version v, and the database has"),
    "clock": (another_clock, "warning", "The clock of worker w on h differs"),
    "overrun": (overrun, "warning", "1 of the 2 places of worker w on h"),
    "schedule": (late_schedule, "warning", "Schedule hourly was due 6 min ago"),
    "unsettled schedule": (unsettled_schedule, "warning", "Mars/Olympus"),
    "failing schedule": (failing_schedule, "warning", "of schedule hourly did not succeed: boom"),
    "old snapshot": (old_snapshot, "warning", "a report), idle in transaction, has kept"),
    "replication slot": (forgotten_slot, "warning", "Nobody reads from the replication slot"),
    "dead rows": (dead_rows, "warning", "workers has 5"),
    "bloat": (bloat, "note", "live_jobs takes 6"),
    "statistics": (held_up, "warning", "only: Session "),
    "autovacuum": (autovacuum_off, "critical", "Autovacuum is off for live_jobs"),
    "storage": (lost_storage, "warning", "live_jobs has lost its fillfactor"),
    "partitions": (few_weeks, "warning", "lacks 3 of its weeks."),
    "upkeep": (maintained_long_ago, "warning", "maintain was last done 2 days ago"),
    "ids": (ids_behind, "critical", "is behind job 1"),
    "durability": (not_synchronous, "warning", "synchronous_commit is off"),
    "read only": (read_only, "critical", "Sessions can only read"),
}
ELSEWHERE = {"connections", "wraparound", "rights"}  # tested below, on servers of their own


def test_what_waits_for_room_is_no_backlog_and_not_unserved(world):
    limits = {
        "a": {"max_running": 1},
        "b": {"max_starts": 1, "starts_period": DAY},
        "c": {"key_max_starts": 1, "key_starts_period": DAY},
        "d": {"key_in_order": True},
    }
    for queue, given in limits.items():
        call(world.conn, "configure_queue", queue=queue, **given)
        for _ in range(3):
            enqueue(world.conn, queue=queue, key="acme")
        held = claim(world.conn, queues=[queue], lease=DAY)
        if queue == "d":
            call(world.conn, "finish_job", **held, error="x", retry_in=DAY)
        elif queue != "a":
            call(world.conn, "finish_job", **held)
        assert call(world.conn, "claim_next_job", queues=[queue]) == []
    for served in (False, True):
        if served:
            alive(world, queues=list(limits))
        world.clock.advance(20 * MINUTE)
        for queue in limits:
            assert call(world.conn, "claim_next_job", queues=[queue]) == []
        if served:
            alive(world, queues=list(limits))

        assert not {"backlog", "unserved queue"} & set(found(world.conn))

    enqueue(world.conn, queue="c", key="globex")
    world.clock.advance(20 * MINUTE)
    alive(world, queues=list(limits))
    for queue in "abd":
        assert call(world.conn, "claim_next_job", queues=[queue]) == []

    (row,) = [row for row in examine(world.conn) if row["check"] == "backlog"]
    assert row["evidence"]["queue"] == "c"
    assert "The oldest of 1 due jobs" in row["finding"]


def test_what_waits_for_other_jobs_is_no_backlog_and_not_unserved(world):
    first, second, child = workflow(world.conn, {}, {}, {"depends_on": "all", "queue": "later"})
    call(world.conn, "finish_job", **claim(world.conn, lease=DAY))
    assert claim(world.conn, lease=DAY)["job_id"] == second
    world.clock.advance(20 * MINUTE)
    alive(world)

    assert found(world.conn) == {}
    assert "WAITS_FOR_PARENTS" in explain(world.conn, child)
    assert first


@pytest.mark.parametrize(
    ("lost", "ending", "becomes"),
    [
        ("an edge's parent", None, "SCHEDULED"),
        ("edges", None, "SCHEDULED"),
        ("edges", "boom", "CANCELLED"),
        ("edges and record", "boom", "SCHEDULED"),
    ],
)
def test_what_is_stranded_is_found_and_maintain_heals_it(world, lost, ending, becomes):
    alive(world)
    parent, child, below = workflow(
        world.conn, {}, {"depends_on": "previous"}, {"depends_on": "previous"}
    )
    if lost == "an edge's parent":
        world.conn.execute("delete from rota.live_jobs where id = %s", [parent])
    else:
        world.conn.execute("delete from rota.job_dependencies where child_id = %s", [child])
        call(world.conn, "finish_job", **claim(world.conn), error=ending, retry=False)
    if lost == "edges and record":
        world.conn.execute("delete from rota.workflow_jobs where job_id = %s", [child])

    (row,) = [row for row in examine(world.conn) if row["check"] == "stranded jobs"]
    assert row["evidence"] == {"queue": "default", "jobs": 1, "one_of_them": child}
    assert "LOST_PARENTS" in explain(world.conn, child)
    call(world.conn, "maintain")

    assert found(world.conn) == {}
    assert call(world.conn, "check_invariants") == []
    states = world.conn.execute("select id, state from rota.jobs where id >= %s", [child])
    is_down = becomes == "CANCELLED"
    assert dict(states) == {child: becomes, below: "CANCELLED" if is_down else "WAITING"}


def test_lost_edges_from_a_parent_that_lives_lead_from_it_again(world, connect):
    alive(world)
    first, second, child = workflow(world.conn, {}, {}, {"depends_on": "all"})
    call(world.conn, "finish_job", **claim(world.conn))
    world.conn.execute("delete from rota.job_dependencies")
    world.conn.execute("update rota.live_jobs set linked = null where id = %s", [second])
    holder = connect(autocommit=False)
    holder.execute("select from rota.live_jobs where id = %s for update", [second])
    call(world.conn, "maintain")  # waits for nobody, and so leaves it
    assert "LOST_PARENTS" in explain(world.conn, child)
    holder.rollback()

    call(world.conn, "maintain")

    assert found(world.conn) == {}
    assert call(world.conn, "check_invariants") == []
    said = explain(world.conn, child)["WAITS_FOR_PARENTS"]
    assert f"1 of 2 parents: job {second} (SCHEDULED)" in said["reason"]
    call(world.conn, "finish_job", **claim(world.conn))
    assert claim(world.conn)["job_id"] == child
    assert first


@pytest.mark.parametrize("check", CHECKS)
def test_each_fault_is_found_when_it_is_there(world, check):
    scene, severity, words = CHECKS[check]
    assert found(world.conn) == {}
    scene(world)

    rows = examine(world.conn)

    assert (severity, True) in [
        (row["severity"], words in row["finding"]) for row in rows if row["check"] == check
    ], rows


def test_the_manual_has_a_row_for_each_check_and_each_is_tried_here():
    text = "".join(
        re.sub(r"--.*", "", path.read_text())
        for path in (FOLDER / "functions" / "diagnosis").glob("_find_*.sql")
    )
    written = set(
        re.findall(
            r"(?:'(?:critical|warning|note)'|end)(?: as severity)?,\s+"
            r"'([a-z ]+)'(?: as \"check\")?,",
            text,
        )
    )
    section = PAGE.read_text().split("\n## What is wrong\n")[1].split("\n## ")[0]

    assert written == set(CHECKS) | ELSEWHERE
    assert set(re.findall(r"^\| `([a-z ]+)` \|", section, re.M)) == written


@pytest.mark.parametrize(
    ("scene", "check", "severity"),
    [
        (lambda world: alive(world, overrun=2), "overrun", "critical"),
        (lambda world: world.clock.advance(60 * DAY), "partitions", "critical"),
        (clock_put_back, "clock", "warning"),
        (held_up_by_a_reader, "statistics", "warning"),
        (nobody_counts, "statistics", "warning"),
    ],
)
def test_a_fault_has_the_severity_of_what_comes_of_it(world, scene, check, severity):
    scene(world)

    assert found(world.conn)[check]["severity"] == severity


def test_a_queue_that_was_forgotten_paused_for_a_day_is_a_warning(world):
    paused_queue(world)
    world.clock.advance(25 * HOUR)

    assert found(world.conn)["paused queue"]["severity"] == "warning"


def test_the_doctor_goes_by_a_census_that_is_new_and_counts_for_himself_else(world):
    unserved(world)
    assert call(world.conn, "take_census") == [{"take_census": True}]
    (job_id,) = world.conn.execute("select id from rota.live_jobs").fetchone()
    call(world.conn, "cancel_job", job_id=job_id)

    by_the_census = found(world.conn)
    counted = call(world.conn, "doctor", max_age=timedelta(0))
    world.clock.advance(31 * SECOND)

    assert set(by_the_census) == {"unserved queue"}
    assert {row["check"] for row in counted} <= OF_THE_TESTS
    assert found(world.conn) == {}


def test_what_another_session_runs_is_not_told(world):
    job_id = enqueue(world.conn)
    holder = world.connect(autocommit=False)
    holder.execute("select 'a secret' from rota.live_jobs for update")
    world.clock.advance(6 * MINUTE)

    rows = [*examine(world.conn), *call(world.conn, "explain_job", job_id=job_id)]

    assert "old snapshot" in found(world.conn)
    assert "secret" not in repr(rows)


def test_an_hour_old_snapshot_is_critical(world):
    old_snapshot(world)
    world.clock.advance(HOUR)

    assert found(world.conn)["old snapshot"]["severity"] == "critical"


def test_a_house_at_work_is_healthy(world):
    """Jobs that wait, run, ended and failed, a schedule, workers that came and went."""
    alive(world, tasks=["t"], overrun=0, clock=datetime.now(UTC))
    alive(world, worker="done")
    call(world.conn, "dismiss_worker", worker="done")
    call(world.conn, "maintain")
    schedule(world)
    for arguments in ({}, {"run_at": "2040-01-01"}, {"queue": "sql"}, {"timeout": HOUR}):
        enqueue(world.conn, **arguments)
    claim(world.conn, queues=["sql"])
    call(world.conn, "finish_job", **claim(world.conn))
    call(world.conn, "finish_job", **claim(world.conn), error="boom", retry=False)
    call(world.conn, "configure_queue", queue="new", max_retries=1)
    world.connect(autocommit=False).execute("select from rota.live_jobs for update")

    assert found(world.conn) == {}


def test_dead_rows_are_no_news_where_autovacuum_has_just_been(world):
    dead_rows(world)
    world.clock.advance(-10 * MINUTE)

    assert found(world.conn) == {}


def test_a_large_table_is_not_bloated_where_a_crash_or_a_standby_has_lost_its_counts(world):
    world.conn.execute("alter table rota.live_jobs alter column payload set storage plain")
    world.conn.execute(
        "select rota.enqueue_many('t', jsonb_agg(repeat('x', 7000))) from generate_series(1, 8300)"
    )
    world.conn.execute("vacuum rota.live_jobs")
    world.conn.execute("select pg_stat_reset()")

    assert found(world.conn) == {}


def test_a_queue_that_is_worked_in_sql_is_served(world):
    for _ in range(2):
        enqueue(world.conn)
    claim(world.conn, lease=HOUR)
    world.clock.advance(2 * MINUTE)

    assert found(world.conn) == {}


def test_a_worker_over_http_is_not_ill_for_saying_little(world):
    over_http = {"pid": None, "concurrency": None, "version": None}
    serve(world.conn, worker="over http", **over_http)
    assert found(world.conn) == {}

    world.clock.advance(2 * MINUTE)

    assert found(world.conn) == {}


def test_a_foreign_key_that_is_being_written_locks_no_job_for_the_doctor(world):
    alive(world)
    job_id = enqueue(world.conn)
    world.conn.execute("create table notes (job_id bigint references rota.live_jobs (id))")
    world.connect(autocommit=False).execute("insert into notes values (%s)", [job_id])
    world.clock.advance(20 * SECOND)

    assert found(world.conn) == {}


def test_the_doctor_locks_no_row_waits_for_none_and_writes_nothing(world):
    unserved(world)
    world.connect(autocommit=False).execute("select from rota.live_jobs for update")
    asker = world.connect(autocommit=False)
    asker.execute("set lock_timeout = '1ms'")

    assert examine(asker)

    kinds = asker.execute(
        "select distinct mode from pg_locks"
        " where pid = pg_backend_pid() and locktype <> 'virtualxid'"
    ).fetchall()
    assert kinds == [("AccessShareLock",)]
    assert asker.execute("select pg_current_xact_id_if_assigned()").fetchone() == (None,)


def test_the_doctor_is_not_for_who_is_behind_a_wall(world):
    conn = world.conn
    conn.execute("drop role if exists rota_test_patient")
    conn.execute("create role rota_test_patient in role rota_operator, rota_reader")
    world.afterwards.callback(conn.execute, "drop role rota_test_patient")
    call(conn, "wall", principal="rota_test_patient", queue_pattern="acme.*")

    with pytest.raises(errors.InsufficientPrivilege, match="doctor is about all queues"):
        call(world.connect(role="rota_test_patient"), "doctor")


@contextlib.contextmanager
def server(folder: Path, **settings: str) -> Iterator[Cluster]:
    with Cluster(folder / "pg", SERVER_VERSION, settings) as one:
        yield one


def test_a_server_as_it_is_delivered_is_healthy_and_so_is_its_standby(server_folder):
    """The standby is the same server, told to wait for WAL; there, nothing may be an error."""
    with server(server_folder) as one:
        deploy(one.url())
        with psycopg.connect(one.url(), autocommit=True) as conn:
            assert call(conn, "doctor") == []
            job_id = enqueue(conn)
        one.stop()
        (server_folder / "pg" / "standby.signal").touch()
        one.start()
        with psycopg.connect(one.url(), autocommit=True) as conn:
            assert conn.execute("select pg_is_in_recovery()").fetchone() == (True,)
            assert call(conn, "doctor") == []
            reasons = call(conn, "explain_job", job_id=job_id)
            assert [row["code"] for row in reasons] == ["READ_ONLY", "NO_WORKER"]
            assert call(conn, "explain_job", job_id=job_id + 1)[0]["code"] == "UNKNOWN"


def test_what_a_server_of_its_own_can_lack_is_found(server_folder):
    settings = {
        "fsync": "off",
        "full_page_writes": "off",
        "autovacuum": "off",
        "max_connections": "10",
        "superuser_reserved_connections": "0",
        "max_wal_senders": "0",
        "max_prepared_transactions": "2",
        "autovacuum_freeze_max_age": "100000",
    }
    with server(server_folder, **settings) as one, contextlib.ExitStack() as stack:
        deploy(one.url())
        open_one = lambda: stack.enter_context(psycopg.connect(one.url(), autocommit=True))  # noqa: E731
        conn = open_one()
        clock = Clock(conn)
        for _ in range(8):
            open_one()
        other = open_one()
        other.execute("begin; create table something (n integer); prepare transaction 'it''s'")
        clock.advance(6 * MINUTE)
        conn.execute(
            """
            do $body$
            begin
                for v in 1..200000 loop
                    perform pg_current_xact_id();
                    commit;
                end loop;
            end;
            $body$
            """
        )

        rows = {(row["check"], row["finding"]): row for row in examine(conn)}

        words = " ".join(finding for _, finding in rows)
        assert {check for check, _ in rows} == {
            *("durability", "autovacuum", "connections", "wraparound", "old snapshot"),
        }
        assert "fsync is off" in words and "full_page_writes is off" in words
        assert "Autovacuum is off on this server" in words
        assert "10 of 10 connections are in use" in words
        assert "The prepared transaction 'it''s' of postgres" in words
        (remedy,) = [row["remedy"] for row in rows.values() if row["check"] == "old snapshot"]
        assert remedy == "commit prepared 'it''s', or rollback prepared 'it''s'"
        other.execute("rollback prepared 'it''s'")


def test_an_owner_who_may_not_see_other_sessions_is_told_so(server_folder):
    with server(server_folder, **TEST_SETTINGS) as one:
        with psycopg.connect(one.url(), autocommit=True) as conn:
            conn.execute("create role plain login createrole")
            conn.execute("create database plain owner plain")
        deploy(one.url("plain", user="plain"))
        with psycopg.connect(one.url("plain", user="plain"), autocommit=True) as conn:
            note = found(conn)["rights"]
            assert note["severity"] == "note" and "owner of the schema, plain," in note["finding"]
            with psycopg.connect(one.url(), autocommit=True) as admin:
                admin.execute(note["remedy"])
            assert found(conn) == {}
