"""Turns of keys are fair, windows slide, and who has no key pays nothing for it."""

from datetime import UTC, datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.functions.test_plans import updates
from tests.waiting import wait_until

Q = "q"
HOUR = timedelta(hours=1)
CELL = HOUR / 64


def fill(conn, key, number, **more):
    job = {"task": "t", "queue": Q, "key": key, **more}
    call(conn, "enqueue_jobs", jobs=Jsonb([job] * number))


def claim(conn, max_jobs=1):
    rows = call(conn, "claim_next_job", queues=[Q], max_jobs=max_jobs, worker="w")
    return [row["key"] for row in rows]


def finish_all(conn):
    held = conn.execute("select id, token from rota.live_jobs where state = 'RUNNING'").fetchall()
    call(
        conn,
        "finish_jobs",
        job_ids=[job_id for job_id, _ in held],
        tokens=[token for _, token in held],
    )


def claimed_until(conn, key, max_jobs=1):
    """How many jobs are claimed until all of a key are."""
    number = 0
    while conn.execute(
        "select exists (select from rota.live_jobs where key is not distinct from %s"
        " and state = 'SCHEDULED')",
        [key],
    ).fetchone()[0]:
        number += len(wait_until(lambda: claim(conn, max_jobs), 10))
    return number


@pytest.mark.parametrize("limits", [{}, {"key_max_running": 1000}], ids=str)
@pytest.mark.parametrize("max_jobs", [1, 20])
def test_a_tenant_with_many_jobs_delays_one_with_few_by_their_turns_alone(conn, limits, max_jobs):
    if limits:
        call(conn, "configure_queue", queue=Q, **limits)
    fill(conn, "noisy", 1500)
    fill(conn, "quiet", 10)

    assert claimed_until(conn, "quiet", max_jobs) <= 22 + 2 * max_jobs


@pytest.mark.parametrize("limits", [{}, {"key_max_running": 1000}], ids=str)
def test_a_job_for_later_does_not_overtake_those_of_its_key_that_were_due_before(
    conn, clock, limits
):
    """It came before them, and has a turn of its own, which was first when it was due."""
    call(conn, "configure_queue", queue=Q, **limits)
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    fill(conn, "a", 1, run_at=later)
    fill(conn, "a", 5)
    clock.advance(timedelta(minutes=2))

    claimed = [call(conn, "claim_next_job", queues=[Q])[0]["id"] for _ in range(6)]

    in_order = conn.execute("select id from rota.live_jobs order by run_at, id").fetchall()
    assert claimed == [job_id for (job_id,) in in_order]


def test_keys_share_a_claim(conn):
    for key in "abcd":
        fill(conn, key, 100)
    # Of the first look, for which a sixteenth of the turns is taken.
    keys = claim(conn, 64)

    assert [keys.count(key) for key in "abcd"] == [16] * 4


@pytest.mark.parametrize("max_jobs", [1, 10])
@pytest.mark.parametrize(("flood", "few"), [(None, "k"), ("k", None)])
def test_in_a_mixed_queue_neither_those_with_a_key_starve_nor_those_without(
    conn, flood, few, max_jobs
):
    fill(conn, flood, 1500)
    fill(conn, few, 10)

    assert claimed_until(conn, few, max_jobs) < 400


def test_the_backlog_of_a_full_key_is_in_nobodys_way(conn):
    call(conn, "configure_queue", queue=Q, key_max_running=2)
    fill(conn, "full", 3000)
    assert claim(conn, 100) == ["full"] * 2
    assert claim(conn, 100) == []

    assert conn.execute(
        "select count(*) from rota.turns where is_full and ready_at > now()"
    ).fetchone() == (1,)
    fill(conn, "other", 1)
    assert claim(conn, 100) == ["other"]


def test_claims_of_jobs_without_a_key_are_heap_only_updates_whatever_keys_there_are(connect):
    conn = connect()
    fill(conn, None, 600)
    # Beside a queue that has limits and keys.
    call(conn, "configure_queue", queue="limited", max_running=5, key_max_running=2)
    fill(conn, "k", 10, queue="limited")

    assert heap_only_of(connect, conn, 600) == 600


WINDOWS = {
    "of a key": {"key_max_starts": 3, "key_starts_period": HOUR},
    "of a queue": {"max_starts": 3, "starts_period": HOUR},
}


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("max_jobs", [1, 20])
def test_claims_are_heap_only_updates_where_nothing_but_starts_is_limited(
    connect, window, max_jobs
):
    conn = connect()
    window = {name: 1000 if value == 3 else value for name, value in window.items()}
    call(conn, "configure_queue", queue=Q, key_max_running=1)
    call(conn, "configure_queue", queue=Q, unset=["key_max_running"], **window)
    for key in (None, *"abcd"):
        fill(conn, key, 60)

    assert heap_only_of(connect, conn, 300, max_jobs) == 300


def heap_only_of(connect, conn, number, max_jobs=20):
    """How many of so many claims left the indexes alone; all is claimed and finished."""
    claimed = 0
    while claimed < number:
        claimed += len(wait_until(lambda: claim(conn, max_jobs), 10))
        finish_all(conn)

    updated, hot = updates(connect, conn)
    assert updated == number
    return hot


# -- windows


@pytest.fixture(params=WINDOWS.values(), ids=WINDOWS)
def window(request, conn, clock):
    clock.set(datetime(2026, 6, 1, 12, tzinfo=UTC))
    call(conn, "configure_queue", queue=Q, **request.param)
    fill(conn, "k", 100)


def starts(conn):
    return len(claim(conn, 100))


def test_a_window_slides(conn, clock, window):
    assert len(claim(conn, 1)) == 1
    clock.advance(HOUR / 2)
    assert starts(conn) == 2
    assert starts(conn) == 0

    clock.advance(HOUR / 2 - timedelta(seconds=5))
    assert starts(conn) == 0
    clock.advance(CELL + timedelta(seconds=10))
    assert starts(conn) == 1
    clock.advance(HOUR / 2)
    assert starts(conn) == 2
    assert starts(conn) == 0


def test_a_window_shuts_for_claims_of_one_job(conn, clock, window):
    assert [len(claim(conn, 1)) for _ in range(5)] == [1, 1, 1, 0, 0]

    clock.advance(HOUR + CELL + timedelta(seconds=5))
    assert [len(claim(conn, 1)) for _ in range(5)] == [1, 1, 1, 0, 0]


def test_a_start_is_counted_with_none_that_is_older_than_it(conn, clock, window):
    assert len(claim(conn, 1)) == 1
    clock.advance(CELL + timedelta(seconds=5))
    assert starts(conn) == 2

    # An hour after the first, the other two count still.
    clock.advance(HOUR - timedelta(seconds=4))
    assert starts(conn) == 1


@pytest.mark.parametrize("back", [HOUR / 2, timedelta(days=30)], ids=str)
def test_a_window_opens_again_though_the_clock_was_put_back(conn, clock, window, back):
    assert starts(conn) == 3
    clock.advance(-back)
    conn.execute("update rota.live_jobs set run_at = '2026-04-01' where state = 'SCHEDULED'")
    assert starts(conn) == (0 if back < HOUR else 3)

    clock.advance(2 * HOUR)

    assert wait_until(lambda: starts(conn), 5) == 3


def test_a_start_that_is_ahead_by_a_step_of_the_clock_lets_the_window_open_in_time(
    conn, clock, window
):
    """It counts from when it is written anew, with the next start, for an hour and no more."""
    assert len(claim(conn, 1)) == 1
    clock.advance(-HOUR)
    conn.execute("update rota.live_jobs set run_at = '2026-04-01' where state = 'SCHEDULED'")
    assert len(claim(conn, 1)) == 1

    clock.advance(HOUR + 2 * CELL)

    assert starts(conn) == 3


def test_a_window_is_kept_in_few_cells_however_many_start(conn, clock, window):
    call(
        conn,
        "configure_queue",
        queue=Q,
        max_starts=1000,
        starts_period=HOUR,
        key_max_starts=1000,
        key_starts_period=HOUR,
    )
    for _ in range(90):
        clock.advance(HOUR / 80)
        assert len(claim(conn, 1)) == 1

    rows = conn.execute("select cardinality(cells) from rota.flows").fetchall()
    assert 1 < max(rows)[0] <= 66


def test_turns_of_a_clock_that_was_put_back_are_brought_forward(conn, clock):
    clock.advance(-2 * HOUR)
    fill(conn, "a", 3)
    clock.advance(2 * HOUR)
    assert claim(conn) == ["a"]
    clock.advance(-HOUR)
    assert claim(conn) == []

    call(conn, "maintain")

    assert claim(conn) == ["a"]
    assert call(conn, "check_invariants") == []


def test_a_full_key_waits_for_room_and_not_for_its_turn(conn):
    call(conn, "configure_queue", queue=Q, key_max_running=1)
    fill(conn, "a", 3)
    assert claim(conn) == ["a"]
    full = conn.execute("select is_full, ready_at > now() + '50 s' from rota.turns").fetchall()
    assert full == [(True, True)]
    assert claim(conn) == []

    finish_all(conn)

    assert claim(conn) == ["a"]


def test_keys_share_a_claim_though_others_only_say_that_there_is_room(conn):
    call(conn, "configure_queue", queue=Q, key_max_running=2000)
    fill(conn, "done", 1)
    assert wait_until(lambda: claim(conn)) == ["done"]
    finish_all(conn)
    fill(conn, "noisy", 100)
    fill(conn, "quiet", 10)

    assert set(claim(conn, max_jobs=20)) == {"noisy", "quiet"}


@pytest.mark.parametrize("max_jobs", [1, 20])
def test_turns_that_only_say_that_there_is_room_keep_no_claim_from_a_job(conn, max_jobs):
    """Whoever ends a job that was counted posts one, whether its key waits or not."""
    call(conn, "configure_queue", queue=Q, key_max_running=1)
    for number in range(40):
        fill(conn, f"key {number}", 1)
    while len(claim(conn, max_jobs=40)) > 0:
        pass
    finish_all(conn)
    assert conn.execute("select count(*) from rota.turns").fetchone() == (40,)
    fill(conn, "a", 1)

    assert claim(conn, max_jobs) == ["a"]

    assert claim(conn) == []
    assert conn.execute("select count(*) from rota.turns").fetchone() == (0,)


def test_claims_of_one_job_look_past_the_turns_that_an_old_snapshot_pins(connect):
    conn, old, number = connect(), connect(autocommit=False), 30_000
    fill(conn, "k", 1)
    assert claim(conn) == ["k"]
    old.execute("set transaction isolation level repeatable read")
    old.execute("select count(*) from rota.turns")
    conn.execute(
        "insert into rota.turns (queue, priority, key, ready_at, from_run_at, from_id)"
        " select %s, 0, 'gone', now() - interval '1 hour', now(), n from generate_series(1, %s) n",
        [Q, number],
    )
    conn.execute("delete from rota.turns where key = 'gone'")
    for key in range(50):
        fill(conn, f"key {key}", 1)
    before = blocks_of_turns(conn)

    for _ in range(50):
        assert len(claim(conn)) == 1

    # A look from the start steps over all of them; a fiftieth of the time may go to such looks.
    assert blocks_of_turns(conn) - before < 20 * number
    old.rollback()

    def forgets():
        conn.execute("vacuum rota.turns")
        fill(conn, "k", 1)
        assert claim(conn) == ["k"]
        return conn.execute("select current_setting(rota._turns_setting(%s, 0))", [Q]).fetchone()

    wait_until(lambda: forgets() == ("",), 20)


def blocks_of_turns(conn):
    """Pages of turns and its indexes that were read so far."""
    conn.execute("select pg_stat_force_next_flush()")
    return conn.execute(
        "select heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read"
        " from pg_statio_user_tables where schemaname = 'rota' and relname = 'turns'"
    ).fetchone()[0]


def brought_forward(conn, how):
    """A schedule in strict order that is to be tried again in an hour, and then at once."""
    call(conn, "schedule_job", task="t", queue=Q, key="a", every=24 * HOUR, name="s")
    (held,) = wait_until(lambda: call(conn, "claim_next_job", queues=[Q], worker="w"))
    pair = {"job_id": held["id"], "token": held["token"]}
    if how == "event":
        call(conn, "await_event", **pair, step="e", event="e", timeout=HOUR)
    else:
        call(conn, "finish_job", **pair, error="boom", retry_in=HOUR)

    yield

    if how == "event":
        call(conn, "emit_event", event="e")
    else:
        call(conn, "trigger_schedule", name="s")
    yield held["id"]


@pytest.mark.parametrize("how", ["triggered", "event"])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_key_in_strict_order_goes_on_when_its_first_job_is_brought_forward(
    conn, connect, how, overlap
):
    call(conn, "configure_queue", queue=Q, key_in_order=True)
    steps = brought_forward(conn, how)
    next(steps)
    fill(conn, "a", 1)
    other = connect()

    with other.transaction():  # leaves the key until that job is due, as it sees it
        assert claim(other, 5) == []
        if overlap:
            first = next(steps)
    if not overlap:
        first = next(steps)

    def began():
        return call(conn, "claim_next_job", queues=[Q], worker="w", max_jobs=5)

    assert [row["id"] for row in wait_until(began, 5)] == [first]


@pytest.mark.parametrize("paused", [False, True])
def test_a_run_of_a_schedule_that_is_given_up_holds_up_its_key_no_longer(conn, clock, paused):
    """It had begun, and waited to be tried again when its time was over; the next has not begun."""
    call(conn, "configure_queue", queue=Q, key_in_order=True)
    options = {"task": "t", "queue": Q, "key": "a"}
    minute = timedelta(minutes=1)
    late = {"misfire": "skip", "max_lateness": minute}
    call(conn, "schedule_job", name="s", every=HOUR, max_retries=3, **late, **options)
    clock.advance(HOUR)
    [run] = call(conn, "claim_next_job", queues=[Q])
    held = {"job_id": run["id"], "token": run["token"]}
    call(conn, "finish_job", **held, error="boom", retry_in=minute)
    if paused:
        call(conn, "pause_schedule", name="s")
    [behind] = call(conn, "enqueue_job", **options)
    clock.advance(3.5 * HOUR)
    if paused:
        call(conn, "resume_schedule", name="s")

    claimed = wait_until(lambda: call(conn, "claim_next_job", queues=[Q]), 5)

    assert [row["id"] for row in claimed] == [behind["job_id"]]


@pytest.mark.parametrize("ends", ["resume_schedule", "delete_schedule"])
def test_a_schedule_that_is_paused_in_its_backoff_holds_up_its_key_for_no_longer(conn, clock, ends):
    call(conn, "configure_queue", queue=Q, key_in_order=True)
    options = {"task": "t", "queue": Q, "key": "a"}
    call(conn, "schedule_job", name="s", every=HOUR, max_retries=3, **options)
    clock.advance(HOUR)
    [run] = call(conn, "claim_next_job", queues=[Q])
    held = {"job_id": run["id"], "token": run["token"]}
    call(conn, "finish_job", **held, error="boom", retry_in=timedelta(minutes=2))
    call(conn, "pause_schedule", name="s")
    [behind] = call(conn, "enqueue_job", **options)
    clock.advance(timedelta(minutes=3))

    assert claim(conn) == []
    [why] = call(conn, "explain_job", job_id=behind["job_id"])[:1]
    assert why["code"] == "IN_ORDER" and "has begun, and is paused" in why["reason"]

    call(conn, ends, name="s")
    clock.advance(timedelta(minutes=1))

    first = run["id"] if ends == "resume_schedule" else behind["job_id"]
    assert [row["id"] for row in call(conn, "claim_next_job", queues=[Q])] == [first]
