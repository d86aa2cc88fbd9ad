"""Keys that take turns, and limits, where two transactions meet: every order of events by itself.

A claim never waits, so these tests need no lock waits: what a session has open is what the other
one meets.
"""

import time
from datetime import UTC, datetime, timedelta
from itertools import count

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.db.gateway import call
from tests.concurrency.sessions import forget_cursors, sqlstate
from tests.conftest import SERVER_VERSION, TEST_SETTINGS
from tests.waiting import wait_until

Q = "q"
HOUR = timedelta(hours=1)
ENDINGS = ["commit", "rollback"]


@pytest.fixture(autouse=True)
def few_lanes(conn):
    """Let no autovacuum be in the way of a limit that is set (_settle_limits)."""
    for table in ("lanes", "turns", "live_jobs"):
        conn.execute(f"alter table rota.{table} set (autovacuum_enabled = off)")


def enqueue(conn, **arguments):
    return call(conn, "enqueue_job", **{"task": "t", "queue": Q, "key": "k", **arguments})[0][
        "job_id"
    ]


def claim(conn, max_jobs=10, queues=(Q,), **arguments):
    """Claim; return the ids."""
    if conn.autocommit:
        forget_cursors(conn)
    return [row["id"] for row in claimed(conn, max_jobs, queues, **arguments)]


def claimed(conn, max_jobs=10, queues=(Q,), **arguments):
    return call(
        conn, "claim_next_job", queues=list(queues), max_jobs=max_jobs, worker="w", **arguments
    )


def pair(row):
    return {"job_id": row["id"], "token": row["token"]}


def claim_soon(conn, **arguments):
    """Claim until something comes, as a worker does; a key that was in the balance comes soon."""
    return wait_until(lambda: claim(conn, **arguments), 5)


def nothing_comes(conn, **arguments):
    """A few claims, over longer than a key is left alone that was in the balance."""
    conn.execute("select pg_sleep(0.02)")
    return claim(conn, **arguments) == [] == claim(conn, **arguments)


def turns(conn):
    return conn.execute(
        "select key, is_full from rota.turns where queue = %s order by key, ready_at", [Q]
    ).fetchall()


def configure(conn, **arguments):
    call(conn, "configure_queue", queue=Q, **arguments)


def settle(conn):
    """Let a claim find that nothing runs that began before the limits."""
    job_id = enqueue(conn, key="another")
    (row,) = wait_until(lambda: claimed(conn), 5)
    assert row["id"] == job_id
    call(conn, "finish_job", **pair(row))


def reader(session):
    """Open a transaction that reads the lanes, as a claim does, or a dump."""
    other = session()
    other.begin()
    other.conn.execute("select from rota.lanes")
    return other


def running(conn):
    return conn.execute(
        "select count(*) from rota.live_jobs where queue = %s and state = 'RUNNING'", [Q]
    ).fetchone()[0]


def two_keys_with_one_lock(conn):
    """Two keys whose claims exclude each other, by chance of the hash."""
    numbers: dict[int, str] = {}
    for place in count():
        key = f"key {place}"
        number = conn.execute("select rota._flow_number(%s)", [key]).fetchone()[0]
        if number in numbers:
            return numbers[number], key
        numbers[number] = key
    raise AssertionError


# -- a producer relies on a turn that a claim takes away


def test_a_job_that_comes_while_a_claim_finds_only_a_later_one_is_not_put_off(conn, session):
    first = enqueue(conn)
    enqueue(conn, run_at=datetime.now(UTC) + HOUR)
    producer = session()
    producer.begin()
    (made,) = producer.call("enqueue_job", task="t", queue=Q, key="k")

    assert claim(conn) == [first]
    producer.commit()

    assert claim_soon(conn) == [made["job_id"]]


def test_in_strict_order_a_turn_that_another_claim_holds_hides_no_earlier_job(conn, session):
    configure(conn, key_in_order=True)
    settle(conn)
    one, other = two_keys_with_one_lock(conn)
    early, late, claimer, holder = session(), session(), session(), session()
    early.begin()
    (first,) = early.call("enqueue_job", task="t", queue=Q, key=one)
    late.begin()
    (second,) = late.call("enqueue_job", task="t", queue=Q, key=one)
    late.commit()
    early.commit()
    enqueue(conn, key=other, priority=1)
    assert first["job_id"] < second["job_id"]

    # The holder takes the job of the other key; so the claimer, who has taken the first turn of
    # ours, is refused, and has it locked until it ends.
    holder.begin()
    assert len(claim(holder.conn, max_jobs=1)) == 1
    claimer.begin()
    assert claim(claimer.conn, max_jobs=1) == []
    holder.commit()

    got = claim(conn, max_jobs=1)
    claimer.commit()

    assert (got or claim_soon(conn, max_jobs=1)) == [first["job_id"]]


@pytest.mark.parametrize(
    "limits", [{}, {"key_max_starts": 1, "key_starts_period": "1 hour"}], ids=str
)
def test_claims_that_are_open_hide_no_key_but_those_that_they_took(conn, session, limits):
    """Neither of these turns can be taken the short way, and all are ready since one moment."""
    keys = [f"k{number}" for number in range(6)]
    if limits:
        configure(conn, **limits)
        settle(conn)
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t", "queue": Q, "key": key} for key in keys]))
    if not limits:
        conn.execute("update rota.turns set passed = 9")
    claimers = [session() for _ in keys]

    taken = []
    for claimer in claimers:
        claimer.begin()
        taken += claimer.call("claim_next_job", queues=[Q])

    assert sorted(row["key"] for row in taken) == keys


def test_in_strict_order_room_leads_to_jobs_whose_turn_another_claim_holds(conn, session):
    configure(conn, key_in_order=True)
    settle(conn)
    one, other = two_keys_with_one_lock(conn)
    first = enqueue(conn, key=one)
    (row,) = claimed(conn, max_jobs=1)
    assert row["id"] == first
    second = enqueue(conn, key=one)
    enqueue(conn, key=other, priority=1)
    claimer, holder = session(), session()
    holder.begin()
    assert len(claim(holder.conn, max_jobs=1)) == 1
    claimer.begin()
    assert claim(claimer.conn, max_jobs=1) == []
    holder.commit()

    call(conn, "finish_job", **pair(row))

    assert claim(conn, max_jobs=1) == [second]
    claimer.commit()


def test_a_queue_is_deleted_while_a_producer_relies_on_a_turn_of_it(conn, session):
    call(conn, "cancel_job", job_id=enqueue(conn))
    assert len(turns(conn)) == 1
    producer = session()
    producer.begin()
    (made,) = producer.call("enqueue_job", task="t", queue=Q, key="k")

    call(conn, "delete_queue", queue=Q)
    producer.commit()

    assert claim_soon(conn) == [made["job_id"]]


def test_a_limit_is_raised_while_a_claim_finds_the_key_full(conn, session):
    configure(conn, key_max_starts=1, key_starts_period=timedelta(days=1))
    enqueue(conn), enqueue(conn)
    assert len(claim(conn, max_jobs=1)) == 1
    claimer, operator = session(), session()
    claimer.begin()
    assert claim(claimer.conn) == []

    raising = operator.start("configure_queue", queue=Q, key_max_starts=2)
    raising.waits()
    claimer.commit()
    raising.answer()

    assert len(claim_soon(conn)) == 1


def test_a_window_that_is_set_while_a_claim_is_open_is_not_written_by_that_claim(conn, session):
    """It does not hold the lock under which that row is written, and another may come to do it."""
    configure(conn, key_max_running=5)
    settle(conn)
    enqueue(conn)
    configure(conn, max_starts=5, starts_period=HOUR)

    conn.execute("select rota._note_starts(%s, '{\"(0,1)\"}', rota._now(), 2)", [Q])

    assert conn.execute("select key from rota.flows where key = ''").fetchall() == []


# How a producer can come to rely on a turn, and what his transaction may be.
def plainly(session):
    session.begin()
    return enqueue(session.conn)


def behind_a_savepoint(session):
    session.begin()
    session.conn.execute("savepoint s")
    return enqueue(session.conn)


def after_going_back_to_a_savepoint(session):
    session.begin()
    session.conn.execute("savepoint s")
    enqueue(session.conn)
    session.conn.execute("rollback to savepoint s")
    return enqueue(session.conn)


def before_a_savepoint_to_which_it_goes_back(session):
    session.begin()
    job_id = enqueue(session.conn)
    session.conn.execute("savepoint s")
    enqueue(session.conn)
    session.conn.execute("rollback to savepoint s")
    return job_id


def at_repeatable_read(session):
    session.begin(psycopg.IsolationLevel.REPEATABLE_READ)
    return enqueue(session.conn)


def at_repeatable_read_with_a_snapshot_of_before(session):
    session.begin(psycopg.IsolationLevel.REPEATABLE_READ)
    session.conn.execute("select count(*) from rota.turns")
    return  # the job comes when the claim has been there


def in_a_bulk(session):
    session.begin()
    jobs = [{"task": "t", "queue": Q, "key": "k"}]
    return session.call("enqueue_jobs", jobs=Jsonb(jobs))[0]["job_id"]


PRODUCERS = [
    plainly,
    behind_a_savepoint,
    after_going_back_to_a_savepoint,
    before_a_savepoint_to_which_it_goes_back,
    at_repeatable_read,
    at_repeatable_read_with_a_snapshot_of_before,
    in_a_bulk,
]
LIMITS = {
    "no limit": {},
    "limits": {"key_max_starts": 100, "key_starts_period": HOUR, "max_running": 100},
}


@pytest.fixture(params=LIMITS.values(), ids=LIMITS)
def limits(request, conn):
    if request.param:
        configure(conn, **request.param)
        settle(conn)


@pytest.mark.parametrize("most", [1, 10])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("produce", PRODUCERS)
def test_a_job_is_found_though_a_claim_found_its_key_empty_before_the_commit(
    conn, session, limits, produce, ending, most
):
    first = enqueue(conn)
    producer = session()
    made = produce(producer)

    assert claim(conn, most) == [first]
    assert nothing_comes(conn, max_jobs=most)
    made = made or enqueue(producer.conn)
    assert nothing_comes(conn, max_jobs=most)
    getattr(producer, ending)()

    if ending == "commit":
        assert claim_soon(conn, max_jobs=most) == [made]
    assert nothing_comes(conn, max_jobs=most)
    conn.execute("select pg_sleep(0.02)")
    assert claim(conn, most) == []
    assert turns(conn) == []


@pytest.mark.parametrize("most", [1, 10])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("produce", PRODUCERS)
def test_a_job_is_found_though_it_came_while_a_claim_that_finds_its_key_empty_was_open(
    conn, session, limits, produce, ending, most
):
    first = enqueue(conn)
    producer, claimer = session(), session()
    if produce is at_repeatable_read_with_a_snapshot_of_before:
        produce(producer)
    claimer.begin()

    assert claim(claimer.conn, most) == [first]
    made = (
        produce(producer) if not producer.conn.info.transaction_status else enqueue(producer.conn)
    )
    made = made or enqueue(producer.conn)
    producer.commit()
    getattr(claimer, ending)()

    expected = [made] if ending == "commit" else [first, made]
    for part in (expected[:1], expected[1:]) if most == 1 else (expected, []):
        assert not part or claim_soon(conn, max_jobs=most) == part


@pytest.mark.parametrize("claimers_end", ENDINGS)
@pytest.mark.parametrize("claim_ends_first", [True, False])
def test_a_job_is_found_whichever_of_a_producer_and_a_claim_ends_first(
    conn, session, claim_ends_first, claimers_end
):
    first = enqueue(conn)
    producer, claimer = session(), session()
    made = plainly(producer)
    claimer.begin()
    assert claim(claimer.conn) == [first]

    if claim_ends_first:
        getattr(claimer, claimers_end)()
        producer.commit()
    else:
        producer.commit()
        getattr(claimer, claimers_end)()

    expected = [made] if claimers_end == "commit" else [first, made]
    assert claim_soon(conn) == expected


# Holds up whoever posts a turn of key "a", until the lock is free.
HELD_UP = """
    create function pg_temp.wait() returns trigger language plpgsql as $$
    begin
        perform pg_advisory_xact_lock(7, 7);
        return new;
    end;
    $$;

    create trigger held_up before insert on rota.turns
        for each row when (new.key = 'a') execute function pg_temp.wait();
"""


def test_a_turn_is_looked_for_after_the_lock_is_held_not_in_the_same_statement(conn, session):
    """A look that begins before sees a turn that is gone when it has the lock."""
    first = enqueue(conn)
    conn.execute(HELD_UP.replace("pg_temp.", "public."))
    conn.execute("select pg_advisory_lock(7, 7)")
    producer, claimer = session(), session()
    jobs = [{"task": "t", "queue": Q, "key": key} for key in "ak"]
    bulk = producer.start("enqueue_jobs", jobs=Jsonb(jobs))
    assert bulk.waits()

    assert claim(claimer.conn) == [first]
    assert nothing_comes(claimer.conn)
    conn.execute("select pg_advisory_unlock(7, 7)")
    made = {row["job_id"] for row in bulk.answer()}

    while made:
        made -= set(claim_soon(claimer.conn))


def test_a_prepared_transaction_holds_what_it_relies_on(connect, conn):
    if conn.execute("show max_prepared_transactions").fetchone() == ("0",):
        pytest.skip("this server prepares no transactions")
    first = enqueue(conn)
    producer = connect()
    producer.execute("begin")
    made = enqueue(producer)
    producer.execute("prepare transaction 'p'")

    try:
        assert claim(conn) == [first]
        assert nothing_comes(conn)
    finally:
        conn.execute("commit prepared 'p'")

    assert claim_soon(conn) == [made]


def test_a_claim_returns_beside_a_bulk_of_300_keys_that_is_open(conn, session):
    keys = [f"key {number}" for number in range(300)]
    firsts = [enqueue(conn, key=key) for key in keys[:20]]
    producer = session()
    producer.begin()
    jobs = [{"task": "t", "queue": Q, "key": key} for key in keys]
    made = producer.call("enqueue_jobs", jobs=Jsonb(jobs))

    assert sorted(claim(conn, max_jobs=1000)) == sorted(firsts)
    assert nothing_comes(conn, max_jobs=1000)
    producer.commit()

    left = {row["job_id"] for row in made}
    while left:
        left -= set(claim_soon(conn, max_jobs=1000))


# -- two claims of one key


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "limits",
    [
        {"key_max_running": 3},
        {"key_max_starts": 3, "key_starts_period": HOUR},
        {"max_running": 3},
        {"max_starts": 3, "starts_period": HOUR},
    ],
    ids=str,
)
def test_two_claims_never_start_more_of_a_key_than_its_limit(conn, session, limits, ending):
    configure(conn, **limits)
    settle(conn)
    if "max_starts" in limits:
        configure(conn, max_starts=4)  # one has started
    ids = [enqueue(conn) for _ in range(10)]
    most = 3
    first, second, third = session(), session(), session()
    first.begin()
    second.begin()

    assert claim(first.conn, max_jobs=2) == ids[:2]
    # There is another turn, as one comes from whoever cannot rely on those that he sees.
    at_repeatable_read(third)
    third.commit()
    assert claim(second.conn) == []
    getattr(first, ending)()
    second.commit()

    # What the first one gave back may start, and no more.
    got = claim_soon(conn)
    assert got == (ids[2:3] if ending == "commit" else ids[:most])
    assert nothing_comes(conn)


@pytest.mark.parametrize("ending", ENDINGS)
def test_two_claims_of_one_job_never_start_more_of_a_key_than_its_limit(conn, session, ending):
    configure(conn, key_max_running=1)
    settle(conn)
    ids = [enqueue(conn) for _ in range(3)]
    first, second, third = session(), session(), session()
    at_repeatable_read(third)  # so that there is another turn
    third.commit()
    first.begin()

    assert claim(first.conn, max_jobs=1) == ids[:1]
    assert claim(second.conn, max_jobs=1) == []
    getattr(first, ending)()

    if ending == "rollback":
        assert claim_soon(conn, max_jobs=1) == ids[:1]
    assert nothing_comes(conn, max_jobs=1)
    assert nothing_comes(conn)


def test_two_claims_of_a_key_without_limit_share_its_jobs(conn, session):
    ids = [enqueue(conn) for _ in range(4)]
    first, second = session(), session()
    first.begin()

    got = claim(first.conn, max_jobs=2)
    first.commit()
    got += claim(second.conn, max_jobs=2)

    assert got == ids


# -- room that comes while a claim finds none


def finish(session, row):
    session.call("finish_job", **pair(row))


def finish_in_a_batch(session, row):
    session.call("finish_jobs", job_ids=[row["id"]], tokens=[row["token"]])


def fail(session, row):
    session.call("finish_job", **pair(row), error="boom", retry_in=HOUR)


def fail_for_good(session, row):
    session.call("finish_job", **pair(row), error="boom", retry=False)


def release(session, row):
    session.call("release_job", **pair(row), delay=HOUR)


def lose(session, row):
    session.conn.execute(
        "update rota.live_jobs set lease_until = '2020-01-01' where id = %s", [row["id"]]
    )
    session.call("recover_jobs")


def cancel_and_finish(session, row):
    session.call("cancel_job", job_id=row["id"])
    session.call("finish_job", **pair(row))


ENDS = [finish, finish_in_a_batch, fail, fail_for_good, release, lose, cancel_and_finish]


@pytest.mark.parametrize("most", [1, 10])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("end", ENDS)
def test_room_that_comes_while_a_claim_finds_the_key_full_is_not_forgotten(
    conn, session, end, ending, most
):
    configure(conn, key_max_running=1, backoff_base=HOUR, backoff_cap=HOUR)
    settle(conn)
    first, second = enqueue(conn), enqueue(conn)
    (row,) = claimed(conn)
    assert row["id"] == first
    worker, claimer = session(), session()
    conn.execute("update rota.turns set ready_at = now(), is_full = false")
    claimer.begin()
    worker.begin()
    end(worker, row)

    # Its own claim finds the key full still; then the attempt has ended, before it or after.
    assert claim(claimer.conn, most) == []
    getattr(worker, ending)()
    claimer.commit()

    if ending == "commit":
        assert claim_soon(conn, max_jobs=most) == [second]
    assert nothing_comes(conn, max_jobs=most)


@pytest.mark.parametrize("end", ENDS)
def test_in_strict_order_the_next_one_starts_when_the_one_before_has_ended(conn, session, end):
    configure(conn, key_in_order=True, backoff_base=HOUR, backoff_cap=HOUR)
    settle(conn)
    first, second = enqueue(conn), enqueue(conn)
    (row,) = claimed(conn)
    assert row["id"] == first
    conn.execute("update rota.turns set ready_at = now(), is_full = false")
    assert nothing_comes(conn)

    end(session(), row)

    if end in (fail, release, lose):  # it waits for its next attempt, and the others for it
        assert nothing_comes(conn)
        call(conn, "cancel_job", job_id=first)
    assert claim_soon(conn) == [second]


@pytest.mark.parametrize("ending", ENDINGS)
def test_in_strict_order_the_head_is_cancelled_while_a_claim_looks_at_it(conn, session, ending):
    configure(conn, key_in_order=True)
    settle(conn)
    first, second = enqueue(conn), enqueue(conn)
    (row,) = claimed(conn)
    release(session(), row)
    operator, claimer = session(), session()
    claimer.begin()
    operator.begin()
    operator.call("cancel_job", job_id=first)

    assert claim(claimer.conn) == []
    getattr(operator, ending)()
    claimer.commit()

    if ending == "commit":
        assert claim_soon(conn) == [second]
    assert nothing_comes(conn)


def test_room_is_found_by_whichever_turn_of_the_key_leads_to_a_job(conn):
    configure(conn, key_max_running=1)
    settle(conn)
    first, second = enqueue(conn), enqueue(conn)
    (row,) = claimed(conn, max_jobs=1)
    assert row["id"] == first
    assert nothing_comes(conn, max_jobs=1)
    conn.execute(
        "insert into rota.turns (queue, priority, key, ready_at, from_run_at, from_id)"
        " values (%s, 0, 'k', now() + interval '10 s', now() + interval '1 hour', 0)",
        [Q],
    )

    call(conn, "finish_job", **pair(row))

    assert claim(conn, max_jobs=1) == [second]


def test_a_schedule_is_not_passed_by_in_its_key(conn):
    call(conn, "schedule_job", task="t", queue=Q, key="k", every=HOUR, name="s")
    call(conn, "trigger_schedule", name="s")
    enqueue(conn)

    assert claimed(conn, max_jobs=1)[0]["task"] == "t"
    assert conn.execute(
        "select schedule_type::text from rota.live_jobs where state = 'RUNNING'"
    ).fetchall() == [("INTERVAL",)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_in_strict_order_a_first_job_that_somebody_has_locked_is_not_passed_by(
    conn, session, ending
):
    configure(conn, key_in_order=True)
    settle(conn)
    first, second = enqueue(conn), enqueue(conn)
    operator = session()
    operator.begin()
    operator.call("cancel_job", job_id=first)

    assert claim(conn) == []
    getattr(operator, ending)()

    assert claim_soon(conn) == [second if ending == "commit" else first]


def test_in_strict_order_a_head_of_another_priority_holds_all_others_back(conn, session):
    configure(conn, key_in_order=True)
    settle(conn)
    low = enqueue(conn)
    (row,) = claimed(conn)
    high = enqueue(conn, priority=5)
    call(conn, "release_job", **pair(row))

    assert claim_soon(conn) == [low]
    assert nothing_comes(conn)
    call(conn, "cancel_job", job_id=low)
    (token,) = conn.execute("select token from rota.live_jobs where id = %s", [low]).fetchone()
    call(conn, "finish_job", job_id=low, token=token)
    assert claim_soon(conn) == [high]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_retried_job_is_found_though_a_claim_found_its_key_empty(conn, session, ending):
    first = enqueue(conn, max_retries=0)
    (row,) = claimed(conn)
    call(conn, "finish_job", **pair(row), error="boom")
    enqueue(conn)
    operator = session()
    operator.begin()
    operator.call("retry_job", job_id=first)

    assert len(claim(conn)) == 1
    assert nothing_comes(conn)
    getattr(operator, ending)()

    if ending == "commit":
        assert claim_soon(conn) == [first]
    assert nothing_comes(conn)


# -- limits that change while a claim is open

WINDOWS = {
    "a queue's window": {"max_starts": 99, "starts_period": HOUR},
    "each key's window": {"key_max_starts": 99, "key_starts_period": HOUR},
}
BEFORE = {"nothing": {}, "a queue's": {"max_running": 9}, "each key's": {"key_max_running": 9}}
NEW_LIMITS = {
    "a queue's": ("configure_queue", {"max_running": 1}),
    "each key's": ("configure_queue", {"key_max_running": 1}),
    "a key's": ("configure_key", {"key": "k", "max_running": 1}),
    "order": ("configure_queue", {"key_in_order": True}),
}


@pytest.mark.parametrize("before", {**BEFORE, **WINDOWS}.values(), ids=[*BEFORE, *WINDOWS])
@pytest.mark.parametrize(("function", "arguments"), NEW_LIMITS.values(), ids=NEW_LIMITS)
def test_a_limit_that_is_set_while_a_claim_is_open_counts_what_that_claim_starts(
    conn, session, function, arguments, before
):
    if before:
        configure(conn, **before)
        settle(conn)
    first, second = enqueue(conn), enqueue(conn)
    claimer, operator = session(), session()
    claimer.begin()
    (row,) = claimed(claimer.conn, max_jobs=1)
    assert row["id"] == first

    setting = operator.start(function, queue=Q, **arguments)
    if not setting.waits():
        setting.answer()
        assert nothing_comes(conn)
    claimer.commit()
    setting.answer()

    assert nothing_comes(conn)
    assert running(conn) == 1
    call(conn, "finish_job", **pair(row))
    assert claim_soon(conn, max_jobs=1) == [second]


@pytest.mark.parametrize("before", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize(("function", "arguments"), NEW_LIMITS.values(), ids=NEW_LIMITS)
def test_a_limit_of_what_runs_counts_what_has_started_where_only_starts_were_limited(
    conn, function, arguments, before
):
    configure(conn, **before)
    settle(conn)
    jobs = [enqueue(conn), enqueue(conn), enqueue(conn)]
    rows = claimed(conn, max_jobs=2)
    assert [row["id"] for row in rows] == jobs[:2]

    call(conn, function, queue=Q, **arguments)

    for row in rows:
        assert nothing_comes(conn)
        call(conn, "finish_job", **pair(row))
    assert claim_soon(conn) == jobs[2:]
    assert nothing_comes(conn)


@pytest.mark.parametrize("max_jobs", [1, 10])
@pytest.mark.parametrize("before", {**BEFORE, **WINDOWS}.values(), ids=[*BEFORE, *WINDOWS])
@pytest.mark.parametrize(("function", "arguments"), NEW_LIMITS.values(), ids=NEW_LIMITS)
def test_a_limit_that_is_set_while_a_claim_is_at_another_queue_is_not_for_that_claim(
    conn, session, function, arguments, before, max_jobs
):
    """It has read which limits there are, and comes to this queue when there is another one."""
    call(conn, "configure_queue", queue="slow", max_running=5)
    for _ in range(2):
        enqueue(conn, queue="slow", key=None, priority=1)
    wait_until(lambda: claim(conn, max_jobs=1, queues=["slow"]))
    if before:
        configure(conn, **before)
        settle(conn)
    jobs = [enqueue(conn) for _ in range(3)]
    # The claim waits for the room of the queue that it looks at first.
    patiently(conn, "_queue_room", "pg_sleep(0.001)", "pg_sleep(0.03)")
    holder, claimer = session(), session()
    holder.begin()
    holder.conn.execute("select from rota.flow_locks where queue = 'slow' for no key update")
    claiming = claimer.start("claim_next_job", queues=["slow", Q], max_jobs=max_jobs)
    wait_until(lambda: event_of(conn, claimer) == "PgSleep")

    call(conn, function, queue=Q, **arguments)

    rows = claiming.answer()
    holder.rollback()
    assert len(rows) == min(max_jobs, 3) if not before else len(rows) <= 1
    done = []
    while len(done) < len(jobs):
        rows = rows or wait_until(lambda: claimed(conn), 5)
        assert running(conn) == len(rows)
        assert nothing_comes(conn)
        assert conn.execute("select * from rota.check_invariants()").fetchall() == []
        for row in rows:
            done.append(row["id"])
            call(conn, "finish_job", **pair(row))
        assert not done[3:]
        rows = []


@pytest.mark.parametrize("max_jobs", [1, 10])
@pytest.mark.parametrize(("function", "arguments"), NEW_LIMITS.values(), ids=NEW_LIMITS)
def test_a_limit_is_not_put_in_force_by_the_transaction_that_sets_it(
    conn, session, function, arguments, max_jobs
):
    """Who begins before its commit knows nothing of the limit, and would not be waited for."""
    for key in ("k", "l", "m", "k", "l", "m"):
        enqueue(conn, key=key)
    operator = session()
    operator.begin()
    operator.call(function, queue=Q, **arguments)
    assert claim(operator.conn, max_jobs=max_jobs) == []
    rows = claimed(conn)
    assert rows
    operator.commit()

    claim(conn, max_jobs=1), claim(conn)

    assert conn.execute("select * from rota.check_invariants()").fetchall() == []
    if "max_running" in arguments and "key" not in arguments:
        assert running(conn) == len(rows)


def test_who_takes_back_a_limit_that_he_has_set_may_put_others_in_force(conn, session):
    configure(conn, key_max_running=1)
    job_id = enqueue(conn)
    operator = session()
    operator.begin()
    operator.conn.execute("savepoint s")
    operator.call("configure_queue", queue="another", max_running=1)
    assert claim(operator.conn) == []
    operator.conn.execute("rollback to s")

    assert claim(operator.conn) == [job_id]
    operator.commit()


def test_a_limit_is_put_in_force_by_claims_that_find_nothing(conn, session):
    """Else whoever is open when the first job comes would be waited for, since whenever."""
    call(conn, "cancel_job", job_id=enqueue(conn))
    wait_until(lambda: claim(conn) == turns(conn) == [])
    configure(conn, key_max_running=1)
    assert claim(conn, max_jobs=1) == [] == claim(conn, max_jobs=1)
    other = reader(session)

    job_id = enqueue(conn)

    assert claim(conn, max_jobs=1) == [job_id]
    other.commit()


@pytest.mark.parametrize("paused", [False, True])
def test_a_limit_is_put_in_force_by_chores_where_no_claim_comes(conn, session, paused):
    """In a queue that is paused, or has no lane yet: its limits are set before its first job."""
    if paused:
        call(conn, "cancel_job", job_id=enqueue(conn))
        call(conn, "pause_queue", queue=Q)
    configure(conn, key_max_running=1)
    assert claim(conn) == []
    call(conn, "do_chores")
    other = reader(session)

    if paused:
        call(conn, "resume_queue", queue=Q)
    job_id = enqueue(conn)

    assert claim_soon(conn) == [job_id]
    other.commit()


def test_a_claim_that_sets_the_mark_of_who_sets_limits_is_one_like_others(conn, session):
    configure(conn, key_max_running=1)
    job_id = enqueue(conn)
    claimer = session()
    claimer.begin()
    claimer.conn.execute("set local rota.sets_limits = 'on'")

    assert claim(claimer.conn) == [job_id]
    claimer.commit()


def test_while_a_limit_is_new_claims_write_once_whom_they_wait_for(conn, session):
    configure(conn, key_max_running=1)
    enqueue(conn)
    other = reader(session)
    versions = set()

    for _ in range(4):
        assert claim(conn) == []
        versions |= set(
            conn.execute("select ctid, xmin from rota.flow_locks where number = -1").fetchall()
        )

    assert len(versions) == 1
    other.commit()


@pytest.mark.parametrize("arguments", [{"max_running": 2}, {"key_max_running": 2}], ids=str)
def test_a_prepared_claim_is_waited_for_when_the_server_was_started_again(server_folder, arguments):
    """Then none knows it by the name by which it was noted."""
    settings = {**TEST_SETTINGS, "max_prepared_transactions": "1", "autovacuum": "off"}
    with Cluster(server_folder / "prepared", SERVER_VERSION, settings) as cluster:
        deploy(cluster.url())
        conn = psycopg.connect(cluster.url(), autocommit=True)
        jobs = [enqueue(conn) for _ in range(5)]
        with psycopg.connect(cluster.url()) as claimer:
            assert claim(claimer, max_jobs=2) == jobs[:2]
            configure(conn, **arguments)
            assert claim(conn) == []
            claimer.execute("prepare transaction 'claim'")
        conn.close()

        cluster.stop()
        cluster.start()
        with psycopg.connect(cluster.url(), autocommit=True) as conn:
            assert claim(conn) == [] == claim(conn)
            whys = call(conn, "explain_job", job_id=jobs[2])
            assert whys[0]["code"] == "LIMIT_NOT_SETTLED"
            assert "until 1 transactions" in whys[0]["reason"]
            conn.execute("commit prepared 'claim'")
            assert claim(conn) == [] == claim(conn)
            assert running(conn) == 2
            assert conn.execute("select * from rota.check_invariants()").fetchall() == []


# -- who has an old snapshot of the limits

REPEATABLE = psycopg.IsolationLevel.REPEATABLE_READ


def with_a_snapshot(session):
    session.begin(REPEATABLE)
    session.conn.execute("select from rota.queues")
    return session


@pytest.mark.parametrize("level", [REPEATABLE, psycopg.IsolationLevel.SERIALIZABLE])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("configure_queue", {"max_running": 3}),
        ("configure_queue", {"unset": ["key_max_starts"]}),
        ("configure_key", {"key": "k", "max_starts": 5}),
    ],
    ids=str,
)
def test_limits_are_set_by_who_sees_what_has_started_and_waits(
    conn, session, function, arguments, level
):
    configure(conn, key_max_starts=1, key_starts_period=timedelta(days=1))
    operator = session()
    operator.begin(level)

    with sqlstate("RTC04"):
        operator.call(function, queue=Q, **arguments)

    operator.rollback()
    operator.begin(level)
    operator.call("configure_queue", queue=Q, max_retries=5)
    operator.commit()


def test_maintain_forgets_no_starts_whose_window_it_does_not_know(conn, session):
    configure(conn, key_max_starts=2, key_starts_period=timedelta(milliseconds=200))
    settle(conn)
    for _ in range(6):
        enqueue(conn)
    while running(conn) < 2:
        claim(conn)
    keeper = with_a_snapshot(session())
    configure(conn, key_starts_period=HOUR)
    time.sleep(0.5)
    assert running(conn) == 2

    keeper.call("maintain")
    keeper.commit()

    assert nothing_comes(conn)


@pytest.mark.parametrize("moves", [False, True])
def test_a_schedule_that_runs_is_counted_also_when_it_is_saved_by_who_knows_of_no_limit(
    conn, session, moves
):
    schedule = {"task": "t", "every": HOUR, "name": "s"}
    queue = "another" if moves else Q
    configure(conn, max_running=1)
    settle(conn)
    call(conn, "schedule_job", queue=queue, **schedule)
    call(conn, "trigger_schedule", name="s")
    assert len(claim(conn, queues=[queue])) == 1
    configure(conn, unset=["max_running"])
    saver = with_a_snapshot(session())
    configure(conn, max_running=1)
    assert claim(conn) == []

    saver.call("schedule_job", queue=Q, **schedule)
    saver.commit()

    enqueue(conn)
    assert nothing_comes(conn)
    assert conn.execute("select * from rota.check_invariants()").fetchall() == []


def test_chores_that_put_a_limit_in_force_do_nothing_after_it(conn, session):
    """They have locked what runs, and whoever ends it would wait while they count."""
    enqueue(conn), enqueue(conn)
    (row,) = claimed(conn, max_jobs=1)
    configure(conn, key_max_running=1)
    chores = session()
    chores.begin()
    before = conn.execute("select count(*) from rota.census").fetchone()

    done = chores.call("do_chores")

    assert done == [{"recovered": 0, "again_in_seconds": 0}]
    assert chores.conn.execute("select count(*) from rota.census").fetchone() == before
    chores.commit()
    assert nothing_comes(conn)
    assert call(conn, "do_chores")[0]["again_in_seconds"] >= 5
    call(conn, "finish_job", **pair(row))
    assert len(claim_soon(conn)) == 1


def test_chores_that_cannot_see_what_runs_put_no_limit_in_force(conn, session):
    enqueue(conn), enqueue(conn)
    claimer = session()
    claimer.begin()
    assert len(claim(claimer.conn, max_jobs=1)) == 1
    configure(conn, key_max_running=1)
    assert claim(conn) == []
    chores = with_a_snapshot(session())
    claimer.commit()

    chores.call("do_chores")
    chores.commit()

    assert nothing_comes(conn)
    assert conn.execute("select * from rota.check_invariants()").fetchall() == []


@pytest.mark.parametrize("before", [{}, {"key_max_running": 1}], ids=str)
@pytest.mark.parametrize("end", [fail, release])
def test_a_job_that_who_knows_of_no_order_hands_back_keeps_its_place(conn, session, end, before):
    if before:
        configure(conn, **before)
        settle(conn)
    enqueue(conn), enqueue(conn)
    (row,) = claimed(conn, max_jobs=1)
    finisher = with_a_snapshot(session())
    configure(conn, key_in_order=True)
    if before:
        assert nothing_comes(conn)

    end(finisher, row)
    finisher.commit()

    assert nothing_comes(conn)


# -- windows, and claims that take long

WINDOWS_OF_THREE = {
    "a queue's": {"max_starts": 3, "starts_period": timedelta(seconds=10)},
    "each key's": {"key_max_starts": 3, "key_starts_period": timedelta(seconds=10)},
}


@pytest.mark.parametrize("max_jobs", [1, 3])
@pytest.mark.parametrize("window", WINDOWS_OF_THREE.values(), ids=WINDOWS_OF_THREE)
def test_a_claim_that_waited_for_long_before_it_looked_knows_of_all_starts(
    conn, session, clock, window, max_jobs
):
    """As behind VACUUM FULL: what others started meanwhile does not lie ahead, but is behind."""
    configure(conn, **window)
    settle(conn)
    clock.advance(timedelta(minutes=1))
    for priority in (1, 1, 1, 0, 0, 0):  # each with a turn of its own
        enqueue(conn, priority=priority)
    other, claimer = session(), session()
    other.begin()
    other.conn.execute("lock table rota.queue_walls")
    waiting = claimer.start("claim_next_job", queues=[Q], max_jobs=max_jobs)
    assert waiting.waits()
    clock.advance(timedelta(seconds=75))
    assert sum(len(claim(other.conn, max_jobs=max_jobs)) for _ in range(3)) == 3
    other.commit()

    assert waiting.answer() == []


@pytest.mark.parametrize("of", ["", "key_"])
def test_a_window_that_becomes_shorter_knows_of_all_starts(conn, of):
    def set_period(period):
        configure(conn, **{f"{of}max_starts": 5, f"{of}starts_period": period})

    set_period(timedelta(days=1))
    settle(conn)
    for _ in range(12):
        enqueue(conn)
    wait_until(lambda: claim(conn) == [] == claim(conn))
    before = running(conn)

    set_period(timedelta(seconds=30))

    assert nothing_comes(conn)
    assert running(conn) == before >= 4


@pytest.mark.parametrize("before", {"nothing": {}, **WINDOWS}.values(), ids=["nothing", *WINDOWS])
def test_a_job_that_fails_when_strict_order_has_just_come_keeps_its_place(conn, before):
    if before:
        configure(conn, **before)
        settle(conn)
    enqueue(conn), enqueue(conn)
    (row,) = claimed(conn, max_jobs=1)

    configure(conn, key_in_order=True)
    call(conn, "finish_job", **pair(row), error="boom", retry_in=HOUR)

    assert nothing_comes(conn)


@pytest.mark.parametrize("fails_first", [0, 1])
def test_jobs_that_ran_when_strict_order_came_go_on_in_that_order_when_they_fail(conn, fails_first):
    jobs = [enqueue(conn) for _ in range(3)]
    rows = claimed(conn, max_jobs=2)
    configure(conn, key_in_order=True)

    backoffs = [timedelta(seconds=1), timedelta()]
    for number in (fails_first, 1 - fails_first):
        assert nothing_comes(conn)
        call(conn, "finish_job", **pair(rows[number]), error="boom", retry_in=backoffs[number])

    whys = {row["code"]: row["reason"] for row in call(conn, "explain_job", job_id=jobs[1])}
    assert f"It waits for job {jobs[0]} of its key" in whys["IN_ORDER"]
    for expected in jobs:
        (row,) = wait_until(lambda: claimed(conn), 5)
        assert row["id"] == expected
        call(conn, "finish_job", **pair(row))


@pytest.mark.parametrize("after", WINDOWS.values(), ids=WINDOWS)
def test_what_ran_under_a_limit_that_gave_way_to_a_window_holds_nobody_back(conn, after):
    configure(conn, key_max_running=1, max_running=1)
    settle(conn)
    jobs = [enqueue(conn), enqueue(conn)]
    (row,) = claimed(conn)
    assert nothing_comes(conn)

    configure(conn, unset=["key_max_running", "max_running"], **after)

    assert claim_soon(conn) == jobs[1:]
    call(conn, "finish_job", **pair(row))


def test_a_limit_that_is_set_while_a_claim_waits_for_its_queue_holds_that_claim_back(conn, session):
    """What runs is not counted yet, and the claim saw before it waited that all was in order."""
    configure(conn, max_starts=9, starts_period=HOUR)
    settle(conn)
    for key in "ab":
        enqueue(conn, key=key)
    patiently(conn, "_queue_room", "pg_sleep(0.001)", "pg_sleep(0.5)")
    claimer, waiter, operator = session(), session(), session()
    claimer.begin()
    assert len(claim(claimer.conn, max_jobs=1)) == 1
    waiting = waiter.start("claim_next_job", queues=[Q])
    wait_until(lambda: event_of(conn, waiter) == "PgSleep")
    setting = operator.start("configure_queue", queue=Q, max_running=1)
    assert setting.waits()

    claimer.commit()

    setting.answer()
    assert waiting.answer() == []
    assert running(conn) == 1


def test_a_key_that_a_claim_found_while_a_limit_was_set_is_looked_at_again_soon(conn, session):
    configure(conn, key_max_starts=9, key_starts_period=HOUR)
    settle(conn)
    first = enqueue(conn)
    patiently(conn, "_take_turns", "v_began := clock_timestamp();", "perform pg_sleep(0.5);")
    claimer = session()
    claiming = claimer.start("claim_next_job", queues=[Q], max_jobs=10)
    wait_until(lambda: event_of(conn, claimer) == "PgSleep")

    configure(conn, max_running=9)

    assert claiming.answer() == []
    assert claim_soon(conn) == [first]


def event_of(conn, session):
    return conn.execute(
        "select wait_event from pg_stat_activity where pid = %s", [session.conn.info.backend_pid]
    ).fetchone()[0]


def patiently(conn, function, before, after):
    """Let a function take longer at one place."""
    (body,) = conn.execute(
        "select pg_get_functiondef(%s::regproc)", [f"rota.{function}"]
    ).fetchone()
    assert body.count(before) == 1
    conn.execute(body.replace(before, after))


def test_a_limit_that_joins_another_kind_counts_what_an_open_claim_starts(conn, session):
    """A claim of jobs without a key holds no lock where only keys are limited."""
    configure(conn, key_max_running=9)
    settle(conn)
    wait_until(lambda: claim(conn) == turns(conn) == [])  # no key whose lock is taken
    enqueue(conn, key=None)
    second = enqueue(conn, key=None)
    claimer, operator = session(), session()
    claimer.begin()
    (row,) = claimed(claimer.conn, max_jobs=1)

    setting = operator.start("configure_queue", queue=Q, max_running=1)
    assert not setting.waits()
    setting.answer()
    assert nothing_comes(conn)
    claimer.commit()

    assert nothing_comes(conn)
    call(conn, "finish_job", **pair(row))
    assert claim_soon(conn) == [second]


def test_a_job_without_a_key_does_not_wait_until_a_new_limit_of_keys_is_in_force(conn, session):
    free, keyed = enqueue(conn, key=None), enqueue(conn)
    other = session()
    other.begin()
    assert claim(other.conn, queues=["another"]) == []

    configure(conn, key_max_running=1)

    assert "LIMIT_NOT_SETTLED" in reasons(conn, keyed) - reasons(conn, free)
    assert claim(conn) == [free]
    other.commit()
    assert claim_soon(conn) == [keyed]


def reasons(conn, job_id):
    return {row["code"] for row in call(conn, "explain_job", job_id=job_id)}


def test_a_limit_that_is_set_again_counts_what_started_while_there_was_none(conn):
    configure(conn, key_max_running=1)
    settle(conn)
    configure(conn, unset=["key_max_running"])
    enqueue(conn), enqueue(conn)
    assert len(claim(conn, max_jobs=1)) == 1

    configure(conn, key_max_running=1)

    assert nothing_comes(conn)


def test_what_runs_when_a_limit_is_set_is_counted_also_what_somebody_holds(conn, session):
    enqueue(conn), enqueue(conn)
    (row,) = claimed(conn, max_jobs=1)
    holder = session()
    holder.begin()
    holder.call("hold_lease", **pair(row))

    configure(conn, key_max_running=1)
    assert nothing_comes(conn)
    holder.commit()

    assert nothing_comes(conn)
    call(conn, "finish_job", **pair(row))
    assert len(claim_soon(conn)) == 1


@pytest.mark.parametrize(
    "removed", [["key_max_running"], ["max_running"], ["key_max_running", "max_running"]], ids=str
)
def test_a_limit_that_is_removed_holds_nobody_back(conn, removed):
    configure(conn, key_max_running=1, max_running=1)
    settle(conn)
    ids = [enqueue(conn) for _ in range(3)]
    assert claim_soon(conn) == ids[:1]
    assert nothing_comes(conn)

    configure(conn, unset=removed)

    if len(removed) == 2:
        assert claim_soon(conn) == ids[1:]
    assert nothing_comes(conn)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_limit_is_raised_by_a_transaction_while_keys_wait(conn, session, ending):
    configure(conn, key_max_running=1)
    settle(conn)
    ids = [enqueue(conn) for _ in range(3)]
    assert claim_soon(conn) == ids[:1]
    assert nothing_comes(conn)
    operator = session()
    operator.begin()
    operator.call("configure_queue", queue=Q, key_max_running=2)

    assert nothing_comes(conn)
    getattr(operator, ending)()

    if ending == "commit":
        assert claim_soon(conn) == ids[1:2]
    assert nothing_comes(conn)


# -- schedules

NAMED = {"task": "t", "queue": Q, "name": "s", "every": timedelta(hours=1)}


def schedule(conn, **arguments):
    """Make or change a schedule; a new one has its first slot in an hour."""
    later = {} if arguments else {"starts_at": datetime.now(UTC) + HOUR}
    return call(conn, "schedule_job", **{**NAMED, "key": "k", **later, **arguments})[0]["job_id"]


def test_a_schedule_with_a_key_runs_by_its_turns_through_all_that_steers_it(conn, clock):
    job_id = schedule(conn)
    assert claim(conn) == []

    call(conn, "trigger_schedule", name="s")
    (row,) = claimed(conn)
    assert (row["id"], row["key"]) == (job_id, "k")
    call(conn, "finish_job", **pair(row))

    clock.advance(HOUR)
    (row,) = claimed(conn)
    call(conn, "finish_job", **pair(row))

    call(conn, "pause_schedule", name="s")
    clock.advance(HOUR)
    assert nothing_comes(conn)
    call(conn, "resume_schedule", name="s")
    assert nothing_comes(conn)
    clock.advance(HOUR)
    assert claim(conn) == [job_id]

    now = datetime.now(UTC) + timedelta(hours=4)
    call(conn, "backfill_schedule", name="s", starts_at=now - 3 * HOUR, ends_at=now)
    conn.execute("select pg_sleep(0.02)")
    rows = claimed(conn)
    assert len(rows) >= 2
    assert {row["key"] for row in rows} == {"k"}


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
def test_schedules_with_keys_go_on_after_an_outage(conn, clock, misfire):
    ids = {schedule(conn, name=f"s{n}", key=f"k{n % 3}", misfire=misfire) for n in range(6)}
    clock.advance(5 * HOUR + timedelta(minutes=30))
    for _ in range(10):
        for row in claimed(conn):
            call(conn, "finish_job", **pair(row))
        conn.execute("select pg_sleep(0.011)")

    clock.advance(timedelta(minutes=30, seconds=5))  # the next slot, and not a minute more

    got = {row["id"] for _ in range(3) for row in claimed(conn, max_jobs=100)}
    assert got == ids


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_schedule_is_triggered_while_a_claim_finds_its_key_empty(conn, session, ending):
    job_id = schedule(conn)
    other = enqueue(conn)
    operator = session()
    operator.begin()
    operator.call("trigger_schedule", name="s")

    assert claim(conn) == [other]
    assert nothing_comes(conn)
    getattr(operator, ending)()

    if ending == "commit":
        assert claim_soon(conn) == [job_id]
    assert nothing_comes(conn)


def test_a_running_schedule_that_moves_gives_room_to_its_key_of_before(conn):
    configure(conn, key_max_running=1)
    settle(conn)
    job_id = schedule(conn)
    call(conn, "trigger_schedule", name="s")
    assert claim_soon(conn) == [job_id]
    other, here = enqueue(conn), enqueue(conn, key="l")
    assert claim_soon(conn) == [here]
    assert nothing_comes(conn)

    schedule(conn, key="l")

    assert claim_soon(conn) == [other]
    # Where it is now it takes room: of the two that run there one ends, and nothing starts.
    waits = enqueue(conn, key="l")
    (token,) = conn.execute("select token from rota.live_jobs where id = %s", [here]).fetchone()
    call(conn, "finish_job", job_id=here, token=token)
    assert nothing_comes(conn)
    (token,) = conn.execute("select token from rota.live_jobs where id = %s", [job_id]).fetchone()
    call(conn, "finish_job", job_id=job_id, token=token)
    assert claim_soon(conn) == [waits]


@pytest.mark.parametrize("moved", [{"key": "l"}, {"queue": "other"}, {"priority": 7}], ids=str)
def test_a_schedule_that_waits_is_found_where_it_moves(conn, clock, moved):
    job_id = schedule(conn)

    schedule(conn, **moved)
    clock.advance(HOUR)

    assert claim(conn, queues=(Q, "other")) == [job_id]


# -- max_bytes


@pytest.mark.parametrize("limits", [{}, {"key_max_running": 2}], ids=str)
def test_a_claim_that_is_full_by_its_bytes_leaves_the_others_their_turns(conn, limits):
    if limits:
        configure(conn, **limits)
        settle(conn)
    ids = {
        enqueue(conn, key=key, payload=Jsonb("x" * 1000)) for key in ("k", "l") for _ in range(4)
    }
    seen: set[int] = set()
    while ids - seen:
        rows = wait_until(lambda: claimed(conn, max_bytes=1500), 5)
        assert len(rows) <= 2
        seen |= {row["id"] for row in rows}
        for row in rows:
            call(conn, "finish_job", **pair(row))

    assert seen == ids


def test_a_claim_that_is_refused_a_key_takes_the_next_one(conn, session):
    configure(conn, key_max_running=1)
    settle(conn)
    one, other = two_keys_with_one_lock(conn)
    held = enqueue(conn, key=one)
    enqueue(conn, key=other)
    free = enqueue(conn, key="free")
    claimer = session()
    claimer.begin()
    assert claim(claimer.conn, max_jobs=1) == [held]

    assert claim(conn, max_jobs=1) == [free]


# -- one after the other: what a turn covers


def test_a_job_for_now_does_not_wait_for_the_turn_of_a_later_one(conn):
    enqueue(conn, run_at=datetime.now(UTC) + HOUR)
    assert nothing_comes(conn)

    now = enqueue(conn)

    assert claim(conn) == [now]


def test_of_a_bulk_the_first_that_is_due_has_the_turn(conn):
    later = (datetime.now(UTC) + HOUR).isoformat()
    jobs = [{"task": "t", "queue": Q, "key": "k", "run_at": at} for at in (later, None, later)]
    made = call(conn, "enqueue_jobs", jobs=Jsonb(jobs))

    assert claim(conn) == [made[1]["job_id"]]


def test_a_later_job_comes_when_it_is_due_and_so_does_one_that_was_put_before_it(conn, clock):
    later = enqueue(conn, run_at=datetime.now(UTC) + 2 * HOUR)
    now = enqueue(conn)
    assert claim(conn) == [now]
    sooner = enqueue(conn, run_at=datetime.now(UTC) + HOUR)
    assert nothing_comes(conn)

    clock.advance(HOUR)
    assert claim_soon(conn) == [sooner]
    clock.advance(HOUR)
    assert claim_soon(conn) == [later]


@pytest.mark.parametrize("key_limits", [{}, {"key_max_running": 2}], ids=str)
def test_a_later_job_keeps_a_turn_when_the_last_one_that_is_due_is_claimed(conn, clock, key_limits):
    if key_limits:
        configure(conn, **key_limits)
        settle(conn)
    now = enqueue(conn)
    later = enqueue(conn, run_at=datetime.now(UTC) + HOUR)
    assert claim(conn, 1) == [now]

    clock.advance(HOUR)

    assert claim_soon(conn) == [later]


def test_a_turn_that_only_says_that_there_is_room_covers_no_job(conn):
    configure(conn, key_max_running=1)
    settle(conn)
    enqueue(conn)
    (row,) = wait_until(lambda: claimed(conn), 5)
    wait_until(lambda: claim(conn) == [])
    call(conn, "finish_job", **pair(row))
    conn.execute("delete from rota.turns where from_run_at < 'infinity'")

    job_id = enqueue(conn)

    assert claim(conn) == [job_id]


def test_in_strict_order_the_head_starts_again_before_what_was_due_earlier(conn):
    configure(conn, key_in_order=True)
    settle(conn)
    first, second = enqueue(conn), enqueue(conn)
    (row,) = claimed(conn)
    call(conn, "finish_job", **pair(row), error="boom", retry_in=timedelta(0))

    (row,) = wait_until(lambda: claimed(conn), 5)
    assert row["id"] == first
    call(conn, "finish_job", **pair(row))
    assert claim_soon(conn) == [second]
