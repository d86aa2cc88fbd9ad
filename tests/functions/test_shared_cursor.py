"""What one session found out about a lane that is slow to scan serves the others, however short.

Most claims here are the only one of their session. The clock by which Rota decides stands still
(``still``), and goes on only as a test says. Where a test needs a lane that is slow to scan, it has
the function that judges by a stopwatch say so (``slow``).
"""

from datetime import UTC, datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.functions.test_cursor import (
    STEP,
    behind,
    claim,
    enqueue,
    let_autovacuum_end,
    scan_slowly,
)
from tests.functions.test_cursor import still as still  # the fixture
from tests.waiting import wait_until

SECOND = timedelta(seconds=1)


@pytest.fixture
def slow(connect):
    """Every scan that finds nothing seems slow, as it is where dead rows are pinned."""
    connect().execute(
        """
        insert into rota.lanes (queue, priority) values ('default', 0);
        create or replace function rota._is_slow(took interval, jobs integer)
            returns boolean language sql as $$ select jobs = 0 $$
        """
    )


@pytest.fixture
def alone(connect):
    """Claim in a session that is made for it, and ends then."""

    def claim_alone(**arguments):
        with connect() as conn:
            return claim(conn, **arguments)

    return claim_alone


def found_alone(alone, still):
    """Return what four claims find, one a second, each in a session of its own."""
    found = []
    for _ in range(4):
        still.advance(SECOND)
        found += alone()
    return sorted(found)


def share_cursor(conn, still, **lane):
    """Share a cursor at the present, and go on until it is time to share again."""
    scan_slowly(conn, shared=True, **lane)
    still.advance(SECOND)
    scan_slowly(conn, shared=True, **lane)
    still.advance(SECOND)


def leave_cursor(conn, **fields):
    """Share a cursor whose place is the present but for what is said, and mark the lane."""
    now = conn.execute("select rota._now()").fetchone()[0]
    settled = {"next_run_at": now, "next_id": 0, "noted_at": now, "sure": True, "next_xid": 3}
    sweep = {"sweeps": 0, "swept_at": now}
    place = {"queue": "default", "priority": 0, "run_at": now, "id": 0, "shared_at": now}
    row = settled | sweep | place | fields
    conn.execute(
        """
        insert into rota.lane_cursors
        select * from jsonb_populate_record(null::rota.lane_cursors, %s);
        """,
        [Jsonb({key: str(value) for key, value in row.items() if value is not None})],
    )
    conn.execute("update rota.lanes set cursor_since = rota._now()")


def newest(conn):
    return conn.execute(
        "select run_at, noted_at, sweeps, swept_run_at from rota.lane_cursors"
        " order by shared_at desc limit 1"
    ).fetchone()


def marks(conn):
    return [since for (since,) in conn.execute("select cursor_since from rota.lanes")]


def blocks(conn, table="live_jobs"):
    """Pages of a table and its indexes read by this database's sessions that told, and by us."""
    conn.execute("select pg_stat_force_next_flush()")
    return conn.execute(
        "select heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read"
        " from pg_statio_user_tables where schemaname = 'rota' and relname = %s",
        [table],
    ).fetchone()[0]


def pin(connect, jobs):
    """Finish so many jobs under an old snapshot; return the session that holds it."""
    conn, old = connect(), connect(autocommit=False)
    old.execute("set transaction isolation level repeatable read")
    old.execute("select count(*) from rota.live_jobs")
    call(conn, "enqueue_many", task="a", payloads=Jsonb([{}] * jobs))
    while rows := call(conn, "claim_next_job", max_jobs=10_000):
        call(
            conn,
            "finish_jobs",
            job_ids=[row["id"] for row in rows],
            tokens=[row["token"] for row in rows],
        )
    conn.execute("delete from rota.lane_cursors")
    conn.execute("update rota.lanes set cursor_since = null where cursor_since is not null")
    return old


@pytest.mark.parametrize("queues", [["default"], ["default", "mail"]])
def test_the_first_claim_of_a_session_reads_little_of_what_an_old_snapshot_pins(
    connect, still, queues
):
    old = pin(connect, 40_000)
    conn = connect()
    conn.execute(
        """
        create or replace function rota._scan_time(queue text, priority integer, at timestamptz)
            returns interval language sql as $$ select interval '20 ms' $$
        """
    )
    enqueue(conn, "mail", queue="mail", run_at=datetime(9000, 1, 1, tzinfo=UTC))
    read = []

    for number in range(6):
        still.advance(STEP)
        enqueue(conn, f"ahead {number}")
        with connect() as worker:
            before = blocks(worker)
            assert claim(worker, queues=queues) == [f"ahead {number}"]
            read.append(blocks(worker) - before)
        let_autovacuum_end(conn)

    # The first two found out for all the others; each of them stepped over all that is pinned.
    assert min(read[:2]) > 400
    assert max(read[2:]) < 100
    old.rollback()


def test_sessions_of_one_claim_find_all_that_lies_behind_and_what_is_ahead(
    connect, still, slow, alone
):
    conn = connect()
    lost = [f"behind {number}" for number in range(7)]
    for number, task in enumerate(lost):
        enqueue(conn, task, run_at=behind() - timedelta(days=4**number))
    enqueue(conn, "of one moment", run_at=behind())
    enqueue(conn, "of one moment", run_at=behind())
    share_cursor(conn, still)
    found = []

    for number in range(40):
        enqueue(conn, f"ahead {number}")
        still.advance(SECOND)
        found += alone(max_jobs=2)

    assert sorted(found) == sorted(
        [*lost, "of one moment", "of one moment", *(f"ahead {number}" for number in range(40))]
    )
    assert newest(conn)[2] >= 1  # sweeps


def test_a_sweep_goes_on_where_the_session_before_left_it(connect, still, slow, alone):
    conn = connect()
    place = behind()
    enqueue(conn, "of this sweep", run_at=place - timedelta(hours=1))
    enqueue(conn, "of the next sweep", run_at=place + timedelta(seconds=1))
    leave_cursor(
        conn,
        swept_run_at=place,
        swept_id=0,
        slice=timedelta(hours=2),
        sweep_took=timedelta(seconds=1),
        swept_at=datetime.now(UTC) - timedelta(hours=1),
    )

    assert alone() == ["of this sweep"]
    found = []
    for _ in range(3):
        still.advance(SECOND)
        found += alone()

    assert found == ["of the next sweep"]


def test_one_session_a_second_looks_behind(connect, still, slow, alone):
    conn = connect()
    enqueue(conn, "first", run_at=behind())
    share_cursor(conn, still)
    assert alone() == ["first"]  # that one looked; to find something is not counted
    assert alone() == []
    enqueue(conn, "second", run_at=behind())

    still.advance(timedelta(milliseconds=900))
    assert alone() == []
    still.advance(timedelta(minutes=1))
    assert alone() == ["second"]


def test_what_lies_behind_is_claimed_by_session_after_session(connect, still, slow, alone):
    conn = connect()
    call(conn, "enqueue_many", task="behind", payloads=Jsonb([{}] * 30), run_at=behind())
    share_cursor(conn, still)

    found = [task for _ in range(32) for task in alone()]

    assert found == ["behind"] * 30


@pytest.mark.parametrize("step", [timedelta(hours=-2), timedelta(hours=2)])
def test_a_step_of_the_clock_voids_a_shared_cursor(connect, still, slow, alone, step):
    conn = connect()
    enqueue(conn, "behind", run_at=datetime.now(UTC) - timedelta(hours=3))
    leave_cursor(conn, swept_at=datetime.now(UTC) + timedelta(seconds=10))
    assert alone() == []

    still.advance(step)

    assert alone() == ["behind"]


def test_a_job_that_is_committed_late_is_found_by_a_new_session_at_once(
    connect, still, slow, alone
):
    late, other = connect(autocommit=False), connect()
    scan_slowly(other, shared=True)
    enqueue(late, "late")
    still.advance(SECOND)
    for task in ("first", "second", "third"):
        still.advance(STEP)
        enqueue(other, task)
        assert alone() == [task]
        still.advance(STEP)
        assert alone() == []
    late.commit()

    assert alone() == ["late"]


def test_a_job_whose_claim_rolls_back_is_found_by_a_new_session_at_once(
    connect, still, slow, alone
):
    holder, other = connect(autocommit=False), connect()
    scan_slowly(other, shared=True)
    enqueue(other, "held")
    still.advance(SECOND)
    assert claim(holder) == ["held"]
    for task in ("first", "second"):
        still.advance(STEP)
        enqueue(other, task)
        assert alone() == [task]
        assert alone() == []
    holder.rollback()

    assert alone() == ["held"]


def test_an_id_that_a_session_took_early_settles_no_place_that_another_noted(
    connect, still, slow, alone
):
    writer, worker, late = (connect(autocommit=False) for _ in range(3))
    enqueue(connect(), "the lane's first")
    assert alone() == ["the lane's first"]
    for conn in (writer, worker):
        conn.execute("select pg_current_xact_id()")
    enqueue(late, "late")
    still.advance(STEP)
    writer.execute(
        """
        select rota._note_scan(
            cursor => rota._lane_cursor(0, 'default', rota._now(), true),
            queue => 'default',
            priority => 0,
            at => rota._now(),
            places => null,
            took => '1 second',
            own_id => false,
            looked => true,
            shared => true
        )
        """
    )
    writer.commit()

    still.advance(SECOND)
    assert claim(worker) == []
    worker.commit()
    with connect() as conn:
        for _ in range(2):
            still.advance(STEP)
            assert claim(conn) == []
        late.commit()
        assert claim(conn) == ["late"]


def test_a_job_that_was_released_or_retried_is_found_by_new_sessions(connect, still, slow, alone):
    conn = connect()
    first = enqueue(conn, "first")
    (held,) = call(conn, "claim_next_job")
    second = enqueue(conn, "second")
    call(conn, "cancel_job", job_id=second)
    share_cursor(conn, still)
    call(conn, "release_job", job_id=first, token=held["token"])
    call(conn, "retry_job", job_id=second)

    assert found_alone(alone, still) == ["first", "second"]


def test_a_claim_that_rolls_back_takes_back_the_cursor_that_it_shared(connect, still, slow):
    conn, late = connect(), connect(autocommit=False)
    share_cursor(conn, still)
    before = newest(conn)
    still.advance(SECOND)

    assert claim(late) == []
    during = newest(late)
    late.rollback()

    assert during > before
    assert newest(conn) == before


def test_maintain_passes_by_a_lane_that_a_claim_marks(connect, still, slow):
    conn, holder = connect(), connect(autocommit=False)
    enqueue(conn, "a")
    conn.execute("insert into rota.lanes values ('default', 0)")
    assert len(marks(conn)) == 2
    scan_slowly(holder, shared=True)
    warnings = []
    conn.add_notice_handler(lambda notice: warnings.append(notice.message_primary))

    call(conn, "maintain")

    assert warnings == []
    holder.commit()
    call(conn, "maintain")
    assert len(marks(conn)) == 1


def test_a_session_takes_over_the_place_of_another_that_is_further_on(connect, still, slow):
    busy, idle = connect(), connect()
    enqueue(busy, "a")
    assert claim(busy) == ["a"]
    for conn in (idle, idle, busy):
        scan_slowly(conn)
        still.advance(STEP)
    enqueue(busy, "between")
    still.advance(SECOND)
    leave_cursor(busy)
    still.advance(STEP)

    found = claim(idle)
    place = idle.execute(
        "select (rota._lane_cursor(0, 'default', rota._now(), true)).run_at = ("
        " select c.run_at from rota.lane_cursors as c order by c.shared_at desc limit 1)"
    ).fetchone()
    assert place == (True,)
    for _ in range(10):  # it lies behind now, where a claim looks for 20 ms at a time
        still.advance(SECOND)
        found += claim(idle)
    assert found == ["between"]


@pytest.mark.parametrize(
    ("own", "shared", "taken"),
    [
        ((0, 20), (0, 10), True),
        ((0, 10), (0, 20), False),
        ((0, 10), (1, None), True),
        ((1, None), (0, 10), False),
        ((0, None), (0, 10), True),
        ((0, 10), (0, None), False),
    ],
)
def test_of_two_sweeps_the_one_that_is_further_on_is_continued(conn, still, own, shared, taken):
    now = conn.execute("select rota._now()").fetchone()[0]

    def sweep(sweeps, seconds):
        swept = seconds and now - timedelta(hours=1) + timedelta(seconds=seconds)
        return {"sweeps": sweeps, "swept_run_at": swept, "swept_id": seconds and 0}

    leave_cursor(conn, **sweep(*own), shared_at=now - timedelta(seconds=5))
    conn.execute(
        """
        select set_config(rota._lane_setting('default', 0), c::text, false)
        from rota.lane_cursors as c
        """
    )
    leave_cursor(conn, **sweep(*shared))

    got = conn.execute(
        "select c.sweeps, c.swept_run_at"
        " from rota._lane_cursor(0, 'default', rota._now(), true) as c"
    ).fetchone()

    expected = sweep(*(shared if taken else own))
    assert got == (expected["sweeps"], expected["swept_run_at"])


@pytest.mark.parametrize(("took", "marked"), [("9 ms", False), ("10 ms", True)])
def test_a_cursor_is_shared_where_a_scan_from_the_start_takes_ten_milliseconds(
    connect, still, slow, alone, took, marked
):
    conn = connect()
    conn.execute(
        f"""
        create or replace function rota._scan_time(queue text, priority integer, at timestamptz)
            returns interval language sql as $$ select interval '{took}' $$
        """
    )
    enqueue(conn, "a")
    assert alone() == ["a"]

    worker = connect()
    for _ in range(3):
        still.advance(timedelta(seconds=2))
        assert claim(worker) == []

    assert [mark is not None for mark in marks(conn)] == [marked]
    assert (newest(conn) is not None) == marked


def test_when_nothing_is_pinned_any_more_all_sessions_forget_their_cursors(connect, clock, alone):
    conn, worker = connect(), connect()
    enqueue(conn, "a")
    assert claim(conn) == ["a"]
    for _ in range(2):
        scan_slowly(worker, shared=True)
        clock.advance(timedelta(seconds=3))

    def given_up():  # by the first look that takes no time, which may be rare on a busy machine
        clock.advance(timedelta(minutes=1))
        assert alone() == []
        return newest(conn)[1] is None

    wait_until(given_up)
    clock.advance(SECOND)
    assert claim(worker) == []

    setting = "select current_setting(rota._lane_setting('default', 0))"
    assert worker.execute(setting).fetchone() == ("",)
    clock.advance(timedelta(minutes=11))
    call(conn, "maintain")
    assert newest(conn) is None
    assert marks(conn) == [None]


def test_a_session_forgets_its_cursor_once_another_gave_it_up(connect, still, slow):
    conn, worker = connect(), connect()
    for _ in range(2):
        scan_slowly(worker)
        still.advance(STEP)
    leave_cursor(conn, noted_at=None)
    still.advance(SECOND)

    start = worker.execute(
        "select c.run_at::text from rota._lane_cursor(0, 'default', rota._now(), true) as c"
    ).fetchone()

    assert start == ("-infinity",)


def test_maintain_keeps_the_newest_cursor_of_each_lane(conn, clock):
    now = conn.execute("select rota._now()").fetchone()[0]
    for lane in ({"priority": 0}, {"priority": 7}, {"queue": "mail"}):
        enqueue(conn, "a", **lane)
        for seconds in range(5):
            leave_cursor(conn, **lane, shared_at=now - timedelta(seconds=seconds))

    call(conn, "maintain")

    kept = conn.execute("select shared_at from rota.lane_cursors").fetchall()
    assert kept == [(now,)] * 3
    clock.advance(timedelta(days=1, minutes=1))
    call(conn, "maintain")
    assert newest(conn) is None
    assert marks(conn) == [None] * 3


def test_maintain_leaves_the_mark_of_a_lane_for_ten_minutes(conn, still):
    enqueue(conn, "a")
    leave_cursor(conn, noted_at=None)

    call(conn, "maintain")
    assert None not in marks(conn)
    still.advance(timedelta(minutes=10, seconds=1))
    call(conn, "maintain")

    assert marks(conn) == [None]


def test_a_deleted_queue_that_comes_again_loses_no_job(connect, still, slow, alone):
    conn = connect()
    enqueue(conn, "a")
    assert alone() == ["a"]
    conn.execute("delete from rota.live_jobs")
    share_cursor(conn, still)
    call(conn, "delete_queue", queue="default")
    enqueue(conn, "ahead")
    enqueue(conn, "behind", run_at=behind())

    assert found_alone(alone, still) == ["ahead", "behind"]


def test_the_newest_cursor_is_found_however_many_an_old_snapshot_keeps(connect, still, alone):
    conn, old = connect(), connect(autocommit=False)
    enqueue(conn, "a")
    old.execute("set transaction isolation level repeatable read")
    old.execute("select count(*) from rota.live_jobs")
    conn.execute(
        """
        insert into rota.lane_cursors (queue, priority, run_at, id, noted_at, shared_at)
        select 'default', 0, '-infinity', 0, rota._now(), rota._now() - g * interval '1 second'
        from generate_series(1, 10000) as g
        """
    )
    leave_cursor(conn, run_at=datetime.now(UTC) - timedelta(hours=1))
    call(conn, "maintain")
    assert conn.execute("select count(*) from rota.lane_cursors").fetchone() == (1,)

    with connect() as worker:
        before = blocks(worker, "lane_cursors")
        assert claim(worker) == ["a"]
        assert blocks(worker, "lane_cursors") - before < 20
    old.rollback()


def now(conn):
    return conn.execute("select rota._now()").fetchone()[0]


FORGED = [
    {"run_at": "infinity", "next_run_at": "infinity"},
    {"run_at": "2100-01-01"},
    {"swept_at": "2100-01-01"},
    {"swept_run_at": "2100-01-01", "swept_id": 0, "slice": "1 ms", "sweep_took": "0"},
    {"swept_run_at": "2020-01-01", "swept_id": 0, "slice": "-1 day", "sweep_took": "0"},
    {"shared_at": "2100-01-01"},
    {"sweeps": 2**63 - 1},
    {"sweeps": 2**63 - 1, "shared_at": None},
]


@pytest.mark.parametrize("forged", FORGED, ids=str)
def test_what_a_session_has_set_itself_is_shared_with_nobody_and_stops_nobody(
    conn, connect, still, slow, alone, forged
):
    """A setting is the session's own; the table that all read is not."""
    enqueue(conn, "first")
    leave_cursor(conn, run_at=now(conn) - 2 * STEP)
    with connect() as liar:
        (row,) = liar.execute(
            """
            select jsonb_populate_record(c, %s)::text
            from rota.lane_cursors as c order by c.shared_at desc limit 1
            """,
            [Jsonb(forged)],
        ).fetchone()
        liar.execute("select set_config(rota._lane_setting('default', 0), %s, false)", [row])
        still.advance(2 * SECOND)
        liar.execute("begin")
        claim(liar)
        liar.execute("rollback")
        liar.execute("select set_config(rota._lane_setting('default', 0), %s, false)", [row])
        scan_slowly(liar, shared=True)
    still.advance(2 * SECOND)

    for row in conn.execute(
        "select run_at, swept_at, sweeps, shared_at from rota.lane_cursors"
    ).fetchall():
        assert row[2] <= 1, row
        assert all(it <= now(conn) + timedelta(minutes=1) for it in (row[0], row[1], row[3])), row
    found = []
    for _ in range(200):
        found += alone()
        if found:
            break
        still.advance(SECOND)
    assert found == ["first"]
