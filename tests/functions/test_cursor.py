"""The claim cursor keeps claims flat under an old snapshot, and never loses sight of a job.

A cursor comes into being when a scan was slow. These tests do not wait for a slow scan: they hand
the session the cursor that a slow scan would have left, through the function that leaves it.
"""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from db.gateway import call

LONG = timedelta(seconds=3)


def enqueue(conn, task, **arguments):
    return call(conn, "enqueue_job", task=task, **arguments)[0]["job_id"]


def claim(conn, **arguments):
    return [row["task"] for row in call(conn, "claim_next_job", **arguments)]


def scan_slowly(conn, queue="default", priority=0, took=LONG):
    """Do what a claim does after a slow scan of a lane that found nothing."""
    conn.execute(
        """
        select rota._move_lane_cursor(
            rota._lane_cursor(rota._now(), %(queue)s, %(priority)s), null, rota._now(), %(took)s,
            true
        )
        """,
        {"queue": queue, "priority": priority, "took": took},
    )


def set_cursor(conn, **lane):
    """Leave a cursor at the present: the second slow scan moves it to where the first one was."""
    scan_slowly(conn, **lane)
    scan_slowly(conn, **lane)


def use_lane(conn):
    """Have a lane that is empty again; done by another session, which may be slow at first."""
    enqueue(conn, "a")
    assert claim(conn) == ["a"]


def behind():
    """A run_at that lies behind a cursor set now."""
    return datetime.now(UTC) - timedelta(minutes=5)


def test_a_cursor_hides_what_lies_behind_it_until_it_expires(conn, clock):
    enqueue(conn, "behind", run_at=behind())
    set_cursor(conn)

    assert claim(conn) == []
    clock.advance(timedelta(seconds=61))
    assert claim(conn) == ["behind"]


@pytest.mark.parametrize(
    ("took", "lives"),
    [
        (timedelta(milliseconds=5), timedelta(seconds=1)),
        (timedelta(milliseconds=100), timedelta(seconds=10)),
        (timedelta(seconds=3), timedelta(minutes=1)),
        (timedelta(seconds=10), timedelta(seconds=200)),
        (timedelta(hours=5), timedelta(hours=1)),
    ],
)
def test_a_cursor_lives_as_long_as_its_scan_was_dear(conn, clock, took, lives):
    enqueue(conn, "behind", run_at=behind())
    set_cursor(conn, took=took)

    clock.advance(lives - timedelta(seconds=0.8))
    assert claim(conn) == []
    clock.advance(timedelta(seconds=1))
    assert claim(conn) == ["behind"]


def test_what_is_enqueued_after_the_cursor_is_found_at_once(conn):
    set_cursor(conn)
    enqueue(conn, "ahead")

    assert claim(conn) == ["ahead"]


@pytest.mark.parametrize("function", ["enqueue_job", "enqueue_jobs"])
def test_a_job_committed_late_is_found_at_once(connect, function):
    late, other, worker = connect(autocommit=False), connect(), connect()
    scan_slowly(worker)
    if function == "enqueue_job":
        enqueue(late, "late")
    else:
        call(late, "enqueue_jobs", jobs=Jsonb([{"task": "late"}]))
    for task in ("first", "second", "third"):
        enqueue(other, task)
        assert claim(worker) == [task]
        assert claim(worker) == []
    late.commit()

    assert claim(worker) == ["late"]


def test_the_cursor_follows_when_all_that_was_open_has_ended(connect):
    writer, worker = connect(autocommit=False), connect()
    use_lane(connect())
    scan_slowly(worker)
    writer.execute("select pg_current_xact_id()")
    places = []
    for _ in range(3):
        assert claim(worker) == []
        places.append(cursor_of(worker))
    assert places[0] == places[1] == places[2]

    writer.commit()
    for _ in range(2):
        assert claim(worker) == []
        places.append(cursor_of(worker))

    assert places[2] < places[3] < places[4]


def test_a_transaction_that_wrote_before_its_claim_waits_for_a_younger_id_of_its_own(connect):
    late, worker = connect(autocommit=False), connect(autocommit=False)
    use_lane(connect())
    scan_slowly(worker)
    worker.commit()

    worker.execute("select pg_current_xact_id()")  # as a finish before the claim does
    enqueue(late, "late")
    assert claim(worker) == []
    worker.commit()
    for _ in range(3):
        assert claim(worker) == []
        worker.commit()
    late.commit()

    assert claim(worker) == ["late"]
    worker.commit()


def test_a_cursor_that_expires_does_not_go_beyond_what_is_open(connect, clock):
    late, worker = connect(autocommit=False), connect()
    use_lane(connect())
    set_cursor(worker)
    enqueue(late, "late")
    assert claim(worker) == []
    assert claim(worker) == []
    clock.advance(timedelta(seconds=61))
    scan_slowly(worker)
    assert claim(worker) == []
    late.commit()

    assert claim(worker) == ["late"]


def test_a_scan_that_had_to_wait_leaves_no_cursor(connect):
    holder, worker = connect(autocommit=False), connect()
    left = []
    for _ in range(5):  # on a busy machine the second look, which decides, may be slow as well
        enqueue(worker, "a")
        holder.execute("lock table rota.live_jobs in access exclusive mode")
        timer = threading.Timer(0.2, holder.commit)
        timer.start()
        assert claim(worker) == ["a"]
        timer.join()
        left += worker.execute(
            "select coalesce(current_setting(rota._lane_setting('default', 0), true), '')"
        ).fetchone()
        worker.execute("select set_config(rota._lane_setting('default', 0), '', false)")

    assert "" in left


def test_a_scan_of_seconds_leaves_a_cursor_for_a_minute_and_then_twice_as_long_at_most(
    connect, clock
):
    holder, worker = connect(autocommit=False), connect()

    def claim_after(seconds):
        holder.execute("lock table rota.live_jobs in access exclusive mode")
        timer = threading.Timer(seconds, holder.commit)
        timer.start()
        assert claim(worker) == []
        timer.join()
        return worker.execute(
            """
            select (s.c).expires_at - (s.c).made_at
            from (
                select current_setting(rota._lane_setting('default', 0))::rota.lane_place
            ) as s(c)
            """
        ).fetchone()[0]

    use_lane(connect())
    assert claim_after(3.3) == timedelta(minutes=1)
    clock.advance(timedelta(seconds=61))
    assert timedelta(seconds=122) < claim_after(7) < timedelta(seconds=135)  # of 140


def test_a_cursor_is_forgotten_when_the_full_scan_is_quick_again(conn, clock):
    enqueue(conn, "a")
    set_cursor(conn)
    clock.advance(timedelta(seconds=61))

    assert claim(conn) == ["a"]

    assert conn.execute("select current_setting(rota._lane_setting('default', 0))").fetchone() == (
        "",
    )


def cursor_of(conn):
    return conn.execute(
        "select (current_setting(rota._lane_setting('default', 0))::rota.lane_place).run_at::text"
    ).fetchone()[0]


def test_a_job_whose_claim_rolls_back_is_found_by_the_others_at_once(connect):
    holder, worker = connect(autocommit=False), connect()
    scan_slowly(worker)
    enqueue(worker, "held")
    assert claim(holder) == ["held"]
    enqueue(worker, "next")
    assert claim(worker) == ["next"]
    assert claim(worker) == []
    holder.rollback()

    assert claim(worker) == ["held"]


def test_a_job_that_is_not_committed_within_two_seconds_is_found_when_the_cursor_expires(
    connect, clock
):
    late, worker = connect(autocommit=False), connect()
    enqueue(late, "late")
    use_lane(connect())
    scan_slowly(worker)
    clock.advance(timedelta(seconds=3))
    assert claim(worker) == []
    late.commit()

    assert claim(worker) == []
    clock.advance(timedelta(seconds=61))
    assert claim(worker) == ["late"]


def test_a_cursor_is_not_extended_by_being_moved(conn, clock):
    enqueue(conn, "behind", run_at=behind())
    set_cursor(conn)
    for _ in range(5):
        clock.advance(timedelta(seconds=10))
        enqueue(conn, "ahead", run_at=datetime.now(UTC) + timedelta(seconds=1))
        claim(conn)

    clock.advance(timedelta(seconds=12))

    assert claim(conn) == ["behind"]


def test_a_claim_that_rolls_back_takes_its_cursor_back(connect):
    conn = connect(autocommit=False)
    enqueue(conn, "behind", run_at=behind())
    conn.commit()
    scan_slowly(conn)
    conn.commit()
    scan_slowly(conn)
    assert claim(conn) == []
    conn.rollback()

    assert claim(conn) == ["behind"]
    conn.rollback()


def test_a_claim_under_a_cursor_that_rolls_back_loses_nothing(connect):
    conn = connect(autocommit=False)
    for _ in range(2):
        scan_slowly(conn)
        conn.commit()
    enqueue(conn, "first")
    enqueue(conn, "second")
    conn.commit()
    assert claim(conn, max_jobs=2) == ["first", "second"]
    conn.rollback()

    assert claim(conn, max_jobs=2) == ["first", "second"]
    conn.commit()


def test_a_released_job_is_found_again(conn, clock):
    set_cursor(conn)
    enqueue(conn, "first")
    (held,) = call(conn, "claim_next_job")
    enqueue(conn, "second")
    assert claim(conn) == ["second"]

    call(conn, "release_job", job_id=held["id"], token=held["token"])

    clock.advance(timedelta(seconds=61))
    assert claim(conn) == ["first"]


def test_a_retry_in_the_past_is_found(conn, clock):
    job_id = enqueue(conn, "again")
    call(conn, "cancel_job", job_id=job_id)
    set_cursor(conn)

    call(conn, "retry_job", job_id=job_id)

    assert claim(conn) == ["again"]


def test_cursors_of_lanes_and_queues_are_apart(conn):
    enqueue(conn, "high", priority=5, run_at=behind())
    enqueue(conn, "mail", queue="mail", run_at=behind())
    enqueue(conn, "plain", run_at=behind())
    set_cursor(conn)

    assert claim(conn, queues=["default", "mail"], max_jobs=5) == ["high", "mail"]


@pytest.mark.parametrize("step", [timedelta(hours=-2), timedelta(hours=2)])
def test_a_step_of_the_clock_voids_the_cursor(conn, clock, step):
    enqueue(conn, "behind", run_at=datetime.now(UTC) - timedelta(hours=3))
    set_cursor(conn)
    assert claim(conn) == []

    clock.advance(step)

    assert claim(conn) == ["behind"]


def test_a_cursor_of_one_session_hides_nothing_from_another(connect):
    one, other = connect(), connect()
    enqueue(one, "behind", run_at=behind())
    set_cursor(one)

    assert claim(one) == []
    assert claim(other) == ["behind"]


def test_claims_stay_flat_while_an_old_snapshot_pins_what_is_finished(connect):
    conn, old = connect(), connect(autocommit=False)
    old.execute("set transaction isolation level repeatable read")
    old.execute("select count(*) from rota.live_jobs")
    conn.execute(
        """
        select count(*) from rota.enqueue_jobs((
            select jsonb_agg(jsonb_build_object('task', 'a')) from generate_series(1, 40000)
        ))
        """
    )
    for _ in range(6):
        rows = call(conn, "claim_next_job", max_jobs=5000)
        call(
            conn,
            "finish_jobs",
            job_ids=[row["id"] for row in rows],
            tokens=[row["token"] for row in rows],
        )
    before = blocks(conn)

    for _ in range(100):
        call(conn, "claim_next_job")

    # Without the cursor each of these claims steps over 30,000 pinned rows, more than 500 pages.
    assert (blocks(conn) - before) / 100 < 60
    old.rollback()


def blocks(conn):
    """Pages of the hot table and its indexes read by this session's database so far."""
    conn.execute("select pg_stat_force_next_flush()")
    return conn.execute(
        "select heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read"
        " from pg_statio_user_tables where schemaname = 'rota' and relname = 'live_jobs'"
    ).fetchone()[0]
