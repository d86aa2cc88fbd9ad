"""Partitions ahead, retention, and what maintain must never touch."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from db.gateway import call


def finish_one(conn, **ending):
    (row,) = call(conn, "enqueue_job", task="work", max_retries=0)
    (claimed,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=claimed["id"], token=claimed["token"], **ending)
    return row["job_id"]


def partitions(conn, parent):
    return {
        row[0]
        for row in conn.execute(
            "select inhrelid::regclass::text from pg_inherits where inhparent = %s::regclass",
            [f"rota.{parent}"],
        )
    }


def in_default(conn, parent):
    table = sql.Identifier("rota", f"{parent}_default")
    return conn.execute(sql.SQL("select count(*) from {}").format(table)).fetchone()[0]


@pytest.mark.parametrize("parent", ["finished_jobs", "attempts"])
def test_the_coming_weeks_are_prepared(conn, clock, parent):
    before = partitions(conn, parent)
    clock.advance(timedelta(days=7))

    call(conn, "maintain")
    call(conn, "maintain")

    assert len(partitions(conn, parent) - before) == 1
    finish_one(conn)
    assert in_default(conn, parent) == 0


def test_a_week_that_nobody_prepared_is_caught_and_moved(conn, clock):
    clock.advance(timedelta(days=200))
    job_id = finish_one(conn, result=Jsonb({"kept": True}))
    assert in_default(conn, "finished_jobs") == 1

    call(conn, "maintain")

    for parent in ("finished_jobs", "attempts"):
        assert in_default(conn, parent) == 0
    assert conn.execute("select result from rota.jobs where id = %s", [job_id]).fetchone() == (
        {"kept": True},
    )


def test_retention_drops_old_weeks_and_never_a_live_job(conn, clock):
    call(conn, "configure_retention", retention=timedelta(days=7))
    old = finish_one(conn, error="x")
    (live,) = call(conn, "enqueue_job", task="waits", run_at="2090-01-01")
    (tick,) = call(conn, "schedule_job", task="tick", every="1 hour", starts_at="2090-01-01")
    clock.advance(timedelta(days=21))
    young = finish_one(conn)

    call(conn, "maintain")

    kept = {row[0] for row in conn.execute("select id from rota.jobs")}
    assert kept == {live["job_id"], tick["job_id"], young}
    assert old not in kept
    executions = {row[0] for row in conn.execute("select job_id from rota.attempts")}
    assert executions == {young}
    assert conn.execute("select count(*) from rota.schedules").fetchone()[0] == 1


def test_the_definition_of_a_schedule_goes_with_its_job(conn, clock):
    (tick,) = call(conn, "schedule_job", task="tick", every="1 hour")
    call(conn, "cancel_job", job_id=tick["job_id"])
    call(conn, "maintain")
    assert conn.execute("select count(*) from rota.schedules").fetchone()[0] == 1
    clock.advance(timedelta(days=120))

    call(conn, "maintain")
    call(conn, "maintain")

    assert conn.execute("select count(*) from rota.schedules").fetchone()[0] == 0


@pytest.mark.parametrize("retention", ["6 days", "-1 day", "200 years", None])
def test_a_retention_out_of_range_is_refused(conn, retention):
    with pytest.raises(psycopg.Error, match="retention") as caught:
        call(conn, "configure_retention", retention=retention)

    assert caught.value.sqlstate == "RTV01"


def test_maintain_gives_way_to_a_reader_and_lets_finishes_through(connect, clock):
    conn, reader = connect(), connect(autocommit=False)
    clock.advance(timedelta(days=70))
    reader.execute("select count(*) from rota.finished_jobs")

    call(conn, "maintain")
    finish_one(conn)

    reader.rollback()
    call(conn, "maintain")
    assert in_default(conn, "finished_jobs") == 0


def test_copies_of_a_lane_are_removed_but_for_one(connect):
    one, other = connect(autocommit=False), connect(autocommit=False)
    call(one, "enqueue_job", task="a", queue="new")
    call(other, "enqueue_job", task="b", queue="new")
    one.commit()
    other.commit()

    call(one, "maintain")
    one.commit()

    assert one.execute("select queue, priority from rota.lanes").fetchall() == [("new", 0)]
    assert len(call(one, "claim_next_job", queues=["new"], max_jobs=5)) == 2
    one.commit()


def test_workers_unseen_for_a_day_are_forgotten(conn, clock):
    arguments = {"host": "h", "pid": 1, "queues": ["a"], "concurrency": 1, "version": "v"}
    call(conn, "announce_worker", worker="gone", **arguments)
    clock.advance(timedelta(hours=25))
    call(conn, "announce_worker", worker="here", **arguments)

    call(conn, "maintain")

    assert conn.execute("select worker from rota.workers").fetchall() == [("here",)]


def test_of_many_lanes_each_is_kept_once(conn):
    for queue in ("a", "b"):
        for priority in (0, 1):
            call(conn, "enqueue_job", task="a", queue=queue, priority=priority)
    conn.execute("insert into rota.lanes select l.* from rota.lanes as l")
    conn.execute("insert into rota.lanes select l.* from rota.lanes as l")

    call(conn, "maintain")

    assert conn.execute("select queue, priority from rota.lanes order by 1, 2").fetchall() == [
        (queue, priority) for queue in ("a", "b") for priority in (0, 1)
    ]


def test_what_the_default_partitions_caught_is_dropped_with_its_time(conn, clock):
    """A week that nobody prepared and that is over at the next look."""
    call(conn, "configure_retention", retention=timedelta(days=7))
    clock.advance(timedelta(days=200))
    old = finish_one(conn)
    clock.advance(timedelta(days=30))
    young = finish_one(conn)

    call(conn, "maintain")

    assert conn.execute("select id from rota.jobs").fetchall() == [(young,)]
    assert conn.execute("select distinct job_id from rota.executions").fetchall() == [(young,)]
    assert old != young


def test_a_week_is_kept_until_all_of_it_is_older_than_the_retention(conn, clock):
    """Finished on a Monday's last moment; dropped when that week's Sunday is past retention."""
    monday = datetime(2031, 1, 6, tzinfo=UTC)
    call(conn, "configure_retention", retention=timedelta(days=10))
    clock.set(monday)
    call(conn, "maintain")
    clock.set(monday + timedelta(days=6, hours=23))
    kept = finish_one(conn)

    for days, ids in ((16.9, [(kept,)]), (17.1, [])):
        clock.set(monday + timedelta(days=days))
        call(conn, "maintain")
        assert conn.execute("select id from rota.jobs").fetchall() == ids


def test_a_worker_is_remembered_for_a_day(conn, clock):
    arguments = {"host": "h", "pid": 1, "queues": ["a"], "concurrency": 1, "version": "v"}
    call(conn, "announce_worker", worker="w", **arguments)
    clock.advance(timedelta(hours=23))

    call(conn, "maintain")

    assert conn.execute("select worker from rota.worker_status").fetchall() == [("w",)]


def test_four_weeks_ahead_are_prepared(conn, clock):
    clock.advance(timedelta(days=365))
    call(conn, "maintain")

    for _ in range(4):
        clock.advance(timedelta(days=7))
        finish_one(conn)

    assert in_default(conn, "finished_jobs") == 0
    clock.advance(timedelta(days=7))
    finish_one(conn)
    assert in_default(conn, "finished_jobs") == 1


def test_a_session_that_keeps_maintain_waiting_is_given_up_soon(connect, clock):
    """Each half gives up as a whole; the rest is done all the same."""
    conn, reader = connect(), connect(autocommit=False)
    clock.advance(timedelta(days=70))
    reader.execute("lock table rota.finished_jobs in share row exclusive mode")
    conn.execute("insert into rota.lanes values ('twice', 0), ('twice', 0)")
    conn.execute("set statement_timeout = '5s'")  # a tenth of it would do

    call(conn, "maintain")

    reader.rollback()
    assert conn.execute("select count(*) from rota.lanes").fetchone() == (1,)
