"""The claim cursor keeps claims flat under an old snapshot, and never loses sight of a job.

A cursor comes into being when a scan was slow. These tests do not wait for a slow scan: they hand
the session the cursor that a slow scan would have left, through the function that leaves it.

Where it matters that little time has passed, the clock by which Rota decides stands still, and goes
on only as a test says (``still``): on a busy machine a second passes between two statements.
"""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.waiting import wait_until

STEP = timedelta(milliseconds=1)  # too short for a look at what lies behind a cursor


@pytest.fixture
def still(connect, clock):
    """The clock, standing still from now on but for what it is advanced by."""
    connect().execute(
        """
        do $do$
        begin
            execute format(
                'create or replace function rota._now() returns timestamptz language sql volatile'
                    ' as $$ select timestamptz %L + make_interval('
                    '    secs => (select c.ahead from rota_test.clock as c)) $$',
                rota._utc_text(clock_timestamp())
            );
        end;
        $do$
        """
    )
    return clock


def enqueue(conn, task, **arguments):
    return call(conn, "enqueue_job", task=task, **arguments)[0]["job_id"]


def claim(conn, **arguments):
    return [row["task"] for row in call(conn, "claim_next_job", **arguments)]


def let_autovacuum_end(conn):
    """Wait for what autovacuum has open now: while it is, what a scan found is not settled."""
    transactions = """
        select a.pid, a.backend_xid::text from pg_stat_activity as a
        where a.backend_type = 'autovacuum worker' and a.backend_xid is not null
    """
    were_open = set(conn.execute(transactions))
    wait_until(lambda: were_open.isdisjoint(conn.execute(transactions)))


def scan_slowly(conn, queue="default", priority=0, first_job=None, shared=False):
    """Do what a claim does after a slow scan of a lane, which may have found nothing."""
    conn.execute(
        """
        select rota._note_scan(
            cursor => rota._lane_cursor(%(priority)s, %(queue)s, rota._now(), %(shared)s),
            queue => %(queue)s,
            priority => %(priority)s,
            at => rota._now(),
            places => array(select j.ctid from rota.live_jobs as j where j.id = %(first_job)s),
            took => '1 second',
            own_id => true,
            looked => true,
            shared => %(shared)s
        )
        """,
        {"queue": queue, "priority": priority, "first_job": first_job, "shared": shared},
    )
    let_autovacuum_end(conn)


def set_cursor(conn, **lane):
    """Leave a cursor at the present: the second slow scan moves it to where the first one was."""
    scan_slowly(conn, **lane)
    scan_slowly(conn, **lane)


def claim_while_locked(holder, worker, seconds):
    """Claim, while another session holds a lock of the whole table for so long."""
    holder.execute("lock table rota.live_jobs in access exclusive mode")
    timer = threading.Timer(seconds, holder.commit)
    timer.start()
    tasks = claim(worker)
    timer.join()
    return tasks


def use_lane(conn):
    """Have a lane that is empty again; done by another session, which may be slow at first."""
    enqueue(conn, "a")
    assert claim(conn) == ["a"]


def behind():
    """A run_at that lies behind a cursor set now."""
    return datetime.now(UTC) - timedelta(minutes=5)


def test_a_cursor_hides_what_lies_behind_it_until_it_is_time_to_look_there(conn, still):
    enqueue(conn, "behind", run_at=behind())
    set_cursor(conn)

    assert claim(conn) == []
    still.advance(timedelta(seconds=1))
    assert claim(conn) == ["behind"]


def test_all_that_lies_behind_is_found_and_what_is_ahead_goes_on(conn, clock):
    lost = [f"behind {number}" for number in range(7)]
    for number, task in enumerate(lost):
        enqueue(conn, task, run_at=behind() - timedelta(days=4**number))
    enqueue(conn, "repeated", run_at=behind())
    set_cursor(conn)
    found = []

    for number in range(40):
        enqueue(conn, f"ahead {number}")
        clock.advance(timedelta(seconds=1))
        found += claim(conn, max_jobs=2)

    assert sorted(found) == sorted(
        [*lost, "repeated", *(f"ahead {number}" for number in range(40))]
    )


def test_a_slice_with_more_jobs_than_there_is_room_for_is_looked_at_again(conn, clock):
    run_at = behind()
    for number in range(5):
        enqueue(conn, f"behind {number}", run_at=run_at)
    set_cursor(conn)
    enqueue(conn, "ahead")
    found = []

    for _ in range(3):
        clock.advance(timedelta(seconds=1))
        found.append(claim(conn, max_jobs=2))

    assert found == [["behind 0", "behind 1"], ["behind 2", "behind 3"], ["behind 4", "ahead"]]


def test_a_cursor_stays_where_it_is_while_what_lies_behind_takes_all_the_room(conn, clock):
    for _ in range(3):
        enqueue(conn, "behind", run_at=behind())
    set_cursor(conn)
    enqueue(conn, "ahead")
    clock.advance(timedelta(seconds=3))
    before = cursor_of(conn)

    for _ in range(3):
        assert claim(conn) == ["behind"]
        clock.advance(timedelta(seconds=3))

    assert cursor_of(conn) == before
    assert claim(conn) == ["ahead"]


def test_a_run_of_a_schedule_that_lies_behind_has_its_misfire_policy_applied(conn, clock):
    call(conn, "schedule_job", name="skips", task="slot", every=timedelta(hours=1), misfire="skip")
    clock.advance(timedelta(hours=2, minutes=30))
    set_cursor(conn)
    clock.advance(timedelta(seconds=1))

    claim(conn)

    assert conn.execute(
        "select outcome from rota.executions where outcome = 'SKIPPED'"
    ).fetchall() == [("SKIPPED",)]


def test_a_cursor_is_forgotten_when_nothing_is_pinned_behind_it(conn, clock):
    use_lane(conn)
    set_cursor(conn)

    def forgotten():  # at the first look that takes no time, which may be rare on a busy machine
        clock.advance(timedelta(minutes=1))
        assert claim(conn) == []
        row = conn.execute("select current_setting(rota._lane_setting('default', 0))").fetchone()
        return row == ("",)

    wait_until(forgotten)


def test_a_job_behind_that_another_session_holds_is_found_when_that_rolls_back(connect, clock):
    holder, worker = connect(autocommit=False), connect()
    enqueue(worker, "behind", run_at=behind())
    set_cursor(worker)
    assert claim(holder) == ["behind"]
    clock.advance(timedelta(seconds=1))
    assert claim(worker) == []
    holder.rollback()

    clock.advance(timedelta(seconds=1))
    assert claim(worker) == ["behind"]


def test_what_is_enqueued_after_the_cursor_is_found_at_once(conn):
    set_cursor(conn)
    enqueue(conn, "ahead")

    assert claim(conn) == ["ahead"]


@pytest.mark.parametrize("function", ["enqueue_job", "enqueue_jobs"])
def test_a_job_committed_late_is_found_at_once(connect, still, function):
    late, other, worker = connect(autocommit=False), connect(), connect()
    scan_slowly(worker)
    if function == "enqueue_job":
        enqueue(late, "late")
    else:
        call(late, "enqueue_jobs", jobs=Jsonb([{"task": "late"}]))
    for task in ("first", "second", "third"):
        still.advance(STEP)
        enqueue(other, task)
        assert claim(worker) == [task]
        still.advance(STEP)
        assert claim(worker) == []
    late.commit()

    assert claim(worker) == ["late"]


def test_the_cursor_follows_when_all_that_was_open_has_ended(connect, still):
    writer, worker = connect(autocommit=False), connect()
    use_lane(connect())
    scan_slowly(worker)
    writer.execute("select pg_current_xact_id()")
    places = []
    for _ in range(3):
        still.advance(STEP)
        assert claim(worker) == []
        places.append(cursor_of(worker))
    assert places[0] == places[1] == places[2]

    writer.commit()
    for _ in range(2):
        still.advance(STEP)
        assert claim(worker) == []
        places.append(cursor_of(worker))

    assert places[2] < places[3] < places[4]


def test_a_transaction_that_wrote_before_its_claim_waits_for_a_younger_id_of_its_own(
    connect, still
):
    late, worker = connect(autocommit=False), connect(autocommit=False)
    use_lane(connect())
    scan_slowly(worker)
    worker.commit()

    worker.execute("select pg_current_xact_id()")  # as a finish before the claim does
    enqueue(late, "late")
    still.advance(STEP)
    assert claim(worker) == []
    worker.commit()
    for _ in range(3):
        still.advance(STEP)
        assert claim(worker) == []
        worker.commit()
    late.commit()

    assert claim(worker) == ["late"]
    worker.commit()


@pytest.mark.parametrize(("second_look", "left"), [("0.9 ms", False), ("1.1 ms", True)])
def test_a_scan_that_had_to_wait_leaves_no_cursor(connect, second_look, left):
    holder, worker = connect(autocommit=False), connect()
    worker.execute(
        f"""
        create or replace function rota._scan_time(queue text, priority integer, at timestamptz)
            returns interval language sql as $$ select interval '{second_look}' $$
        """
    )
    found = []
    for _ in range(5):  # on a busy machine the wait may be one of a second, and not timed again
        enqueue(worker, "a")
        assert claim_while_locked(holder, worker, 0.2) == ["a"]
        found += worker.execute(
            "select coalesce(current_setting(rota._lane_setting('default', 0), true), '') <> ''"
        ).fetchone()
        worker.execute("select set_config(rota._lane_setting('default', 0), '', false)")

    assert left in found


def test_the_second_look_at_a_lane_takes_its_time(conn):
    seconds = conn.execute(
        "select extract(epoch from rota._scan_time('default', 0, now()))::float8"
    ).fetchone()[0]

    assert seconds > 0


def cursor_of(conn):
    return conn.execute(
        """
        select extract(
            epoch from (current_setting(rota._lane_setting('default', 0))::rota.lane_cursors).run_at
        )::float8
        """
    ).fetchone()[0]


def test_a_job_whose_claim_rolls_back_is_found_by_the_others_at_once(connect, still):
    holder, worker = connect(autocommit=False), connect()
    scan_slowly(worker)
    enqueue(worker, "held")
    assert claim(holder) == ["held"]
    still.advance(STEP)
    enqueue(worker, "next")
    assert claim(worker) == ["next"]
    still.advance(STEP)
    assert claim(worker) == []
    holder.rollback()

    assert claim(worker) == ["held"]


def test_a_job_that_is_not_committed_within_two_seconds_is_found_behind(connect, clock):
    late, worker = connect(autocommit=False), connect()
    enqueue(late, "late")
    use_lane(connect())
    scan_slowly(worker)
    clock.advance(timedelta(seconds=3))
    for _ in range(3):
        assert claim(worker) == []
    late.commit()

    clock.advance(timedelta(seconds=1))
    assert claim(worker) == ["late"]


def test_a_claim_that_rolls_back_takes_its_cursor_back(connect, still):
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

    clock.advance(timedelta(seconds=1))
    assert claim(conn) == ["first"]


def test_a_retry_in_the_past_is_found(conn, clock):
    job_id = enqueue(conn, "again")
    call(conn, "cancel_job", job_id=job_id)
    set_cursor(conn)

    call(conn, "retry_job", job_id=job_id)

    assert claim(conn) == ["again"]


def test_cursors_of_lanes_and_queues_are_apart(conn, still):
    enqueue(conn, "high", priority=5, run_at=behind())
    enqueue(conn, "mail", queue="mail", run_at=behind())
    enqueue(conn, "plain", run_at=behind())
    set_cursor(conn)

    assert claim(conn, queues=["default", "mail"], max_jobs=5) == ["high", "mail"]


@pytest.mark.parametrize("step", [timedelta(hours=-2), timedelta(hours=2)])
def test_a_step_of_the_clock_voids_the_cursor(conn, still, step):
    enqueue(conn, "behind", run_at=datetime.now(UTC) - timedelta(hours=3))
    set_cursor(conn)
    assert claim(conn) == []

    still.advance(step)

    assert claim(conn) == ["behind"]


def test_a_clock_that_is_put_back_voids_a_cursor_however_far_back_that_stands(conn, still):
    now = datetime.now(UTC)
    first = enqueue(conn, "backlog", run_at=now - timedelta(hours=2))
    for _ in range(2):
        scan_slowly(conn, first_job=first)
    enqueue(conn, "behind", run_at=now - timedelta(hours=5))
    assert claim(conn) == ["backlog"]
    enqueue(conn, "backlog", run_at=now - timedelta(hours=2))

    still.advance(timedelta(hours=-1))

    assert claim(conn) == ["behind"]


def test_what_lies_behind_is_found_however_much_there_is_to_do_in_other_queues(conn, clock):
    enqueue(conn, "behind", queue="a", run_at=behind())
    set_cursor(conn, queue="a")
    found = []

    for _ in range(10):
        clock.advance(timedelta(seconds=5))
        for _ in range(2):
            enqueue(conn, "other", queue="b")
        found += claim(conn, queues=["a", "b"])

    assert found.count("behind") == 1


def test_what_lies_behind_is_claimed_as_fast_as_anything(conn, still):
    run_at = behind()
    call(
        conn,
        "enqueue_jobs",
        jobs=Jsonb([{"task": "behind", "run_at": run_at.isoformat()}] * 300),
    )
    set_cursor(conn)
    still.advance(timedelta(seconds=1))
    found = put_off = 0

    while found < 300:
        if claim(conn):
            found += 1
        else:  # the look before took long, as it may on a busy machine
            put_off += 1
            still.advance(timedelta(minutes=1, seconds=1))

    assert put_off < 150


def test_a_look_that_had_to_wait_puts_off_the_next_by_a_minute_at_most(connect, clock):
    holder, worker = connect(autocommit=False), connect()
    use_lane(worker)
    set_cursor(worker)
    clock.advance(timedelta(seconds=1))
    assert claim_while_locked(holder, worker, 1.5) == []
    enqueue(worker, "behind", run_at=behind())

    clock.advance(timedelta(seconds=62))

    assert claim(worker) == ["behind"]


def test_a_cursor_of_one_session_hides_nothing_from_another(connect, still):
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
    assert (blocks(conn) - before) / 100 < 100
    old.rollback()


def blocks(conn):
    """Pages of the hot table and its indexes read by this session's database so far."""
    conn.execute("select pg_stat_force_next_flush()")
    return conn.execute(
        "select heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read"
        " from pg_statio_user_tables where schemaname = 'rota' and relname = 'live_jobs'"
    ).fetchone()[0]


def test_a_look_behind_takes_in_little_at_a_time(connect, still):
    conn, old = connect(), connect(autocommit=False)
    old.execute("set transaction isolation level repeatable read")
    old.execute("select count(*) from rota.live_jobs")
    number, kept = 60_000, []
    conn.execute(
        """
        select count(*) from rota.enqueue_jobs((
            select jsonb_agg(jsonb_build_object(
                'task', case when g = 30000 then 'kept' else 'a' end,
                'run_at', rota._now() - g * interval '10 ms'
            ))
            from generate_series(1, %s) as g
        ))
        """,
        [number],
    )
    while rows := call(conn, "claim_next_job", max_jobs=10_000):
        done = [row for row in rows if row["task"] == "a"]
        call(
            conn,
            "finish_jobs",
            job_ids=[row["id"] for row in done],
            tokens=[row["token"] for row in done],
        )
        kept = [row for row in rows if row["task"] == "kept"] or kept
    worker = connect()
    before = blocks(worker)
    assert claim(worker) == []
    whole = blocks(worker) - before
    for _ in range(3):
        still.advance(STEP)
        assert claim(worker) == []
    call(conn, "release_job", job_id=kept[0]["id"], token=kept[0]["token"])
    most = 0
    found = []

    while not found:
        still.advance(timedelta(milliseconds=20))
        before = blocks(worker)
        found = claim(worker, max_jobs=2)
        most = max(most, blocks(worker) - before)

    assert found == ["kept"]
    assert most < whole / 3
    old.rollback()


def test_what_lies_behind_in_one_lane_takes_no_room_from_the_next(conn, still):
    enqueue(conn, "behind", priority=5, run_at=behind())
    set_cursor(conn, priority=5)
    enqueue(conn, "plain")
    still.advance(timedelta(seconds=1))

    assert claim(conn, max_jobs=2) == ["behind", "plain"]
