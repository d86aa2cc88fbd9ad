"""Races that have bitten other queues, each by name, with real transactions that overlap."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.concurrency.sessions import forget_cursors, sqlstate
from tests.functions.test_cursor import scan_slowly
from tests.waiting import wait_until

MOMENT = timedelta(microseconds=1)


def enqueue(conn, **arguments):
    return call(conn, "enqueue_job", **{"task": "t", **arguments})[0]["job_id"]


def claimed_jobs(conn, **arguments):
    forget_cursors(conn)
    return call(conn, "claim_next_job", **arguments)


def claim(conn, **arguments):
    """Claim one job; return its (job, token) pair as arguments."""
    (claimed,) = claimed_jobs(conn, worker="w", **arguments)
    return {"job_id": claimed["id"], "token": claimed["token"]}


def state(conn, job_id):
    return conn.execute("select state from rota.jobs where id = %s", [job_id]).fetchone()[0]


def executions(conn):
    return conn.execute(
        "select outcome from rota.executions order by finished_at nulls last"
    ).fetchall()


def test_two_claims_never_get_one_job(conn, session):
    job_ids = [enqueue(conn) for _ in range(6)]
    first, second, third = session(), session(), session()
    for one in (first, second, third):
        one.begin()

    got = [
        [row["id"] for row in one.call("claim_next_job", max_jobs=2)]
        for one in (first, second, third)
    ]
    for one in (first, second, third):
        one.commit()

    assert got == [job_ids[0:2], job_ids[2:4], job_ids[4:6]]


def test_a_claim_that_rolls_back_gives_its_jobs_back(conn, session):
    job_id = enqueue(conn)
    first = session()
    first.begin()
    first.call("claim_next_job")

    assert claimed_jobs(conn) == []
    first.rollback()

    (again,) = claimed_jobs(conn)
    assert (again["id"], again["attempt"]) == (job_id, 1)


def test_the_second_enqueuer_of_a_key_waits_and_gets_the_first_one_s_job(conn, session):
    first, second = session(), session()
    first.begin()
    (made,) = first.call("enqueue_job", task="t", unique_key="k")

    waiting = second.start("enqueue_job", task="t", unique_key="k")
    assert waiting.waits()
    first.commit()

    assert waiting.answer() == [{"job_id": made["job_id"], "created": False}]


def test_the_second_enqueuer_of_a_key_makes_the_job_if_the_first_rolls_back(conn, session):
    first, second = session(), session()
    first.begin()
    (never,) = first.call("enqueue_job", task="t", unique_key="k")

    waiting = second.start("enqueue_job", task="t", unique_key="k")
    assert waiting.waits()
    first.rollback()

    (made,) = waiting.answer()
    assert made["created"]
    assert made["job_id"] != never["job_id"]


def test_many_enqueuers_of_one_key_make_one_job(conn, session):
    first, *others = [session() for _ in range(8)]
    first.begin()
    first.call("enqueue_job", task="t", unique_key="k")

    waiting = [one.start("enqueue_job", task="t", unique_key="k") for one in others]
    assert all(one.waits() for one in waiting)
    first.rollback()

    answers = [one.answer()[0] for one in waiting]
    assert [answer["created"] for answer in answers].count(True) == 1
    assert len({answer["job_id"] for answer in answers}) == 1


def test_a_key_is_free_again_when_the_finish_of_its_job_commits(conn, session):
    enqueue(conn, unique_key="k")
    first, second = session(), session()
    first.begin()
    first.call("finish_job", **claim(conn))

    waiting = second.start("enqueue_job", task="t", unique_key="k")
    assert waiting.waits()
    first.commit()

    assert waiting.answer()[0]["created"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_bulks_that_share_keys_in_opposite_order_do_not_deadlock(session, ending):
    first, second, third = session(), session(), session()
    first.begin()
    first.call("enqueue_jobs", jobs=Jsonb([{"task": "t", "unique_key": "b"}]))

    # The second takes "a" and waits for "b"; the third, which names "b" first, must not hold it.
    forwards = second.start(
        "enqueue_jobs", jobs=Jsonb([{"task": "t", "unique_key": key} for key in "abc"])
    )
    assert forwards.waits()
    backwards = third.start(
        "enqueue_jobs", jobs=Jsonb([{"task": "t", "unique_key": key} for key in "cba"])
    )
    assert backwards.waits()
    getattr(first, ending)()

    ids = [row["job_id"] for row in forwards.answer()]
    assert [row["job_id"] for row in backwards.answer()] == ids[::-1]


def test_a_bulk_takes_its_keys_in_order_whatever_the_order_of_its_jobs(session):
    first, second = session(), session()
    first.begin()
    first.call("enqueue_job", task="t", unique_key="a")

    bulk = second.start(
        "enqueue_jobs", jobs=Jsonb([{"task": "t", "unique_key": key} for key in "cba"])
    )
    assert bulk.waits()
    # It waits for "a", so it holds neither of the others yet.
    for key in "bc":
        assert first.call("enqueue_job", task="t", unique_key=key)[0]["created"]
    first.commit()

    assert [row["created"] for row in bulk.answer()] == [False] * 3


def test_of_many_jobs_of_a_bulk_with_one_key_the_first_is_made(conn):
    keys = ["b", "a"] * 300
    rows = call(
        conn,
        "enqueue_jobs",
        jobs=Jsonb(
            [{"task": "t", "payload": place, "unique_key": key} for place, key in enumerate(keys)]
        ),
    )

    assert [place for place, row in enumerate(rows) if row["created"]] == [0, 1]
    assert conn.execute(
        "select unique_key, payload from rota.live_jobs order by unique_key"
    ).fetchall() == [("a", 1), ("b", 0)]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("finish_jobs", ({}, {})),
        ("finish_jobs", ({"errors": ["boom"] * 3}, {"errors": ["boom"] * 3})),
        ("finish_jobs", ({}, {"errors": ["boom"] * 3})),
        ("heartbeat_jobs", ({}, {})),
    ],
    ids=["successes", "failures", "a success and a failure", "heartbeats"],
)
def test_batches_that_share_jobs_in_opposite_order_do_not_deadlock(
    conn, session, function, arguments
):
    job_ids = [enqueue(conn) for _ in range(3)]
    token = claimed_jobs(conn, max_jobs=3)[0]["token"]
    holder, first, second = session(), session(), session()
    holder.begin()
    holder.call("hold_lease", job_id=job_ids[1], token=token)

    started = [
        one.start(function, job_ids=order, tokens=[token] * 3, **more)
        for one, order, more in zip(
            (first, second), (job_ids, job_ids[::-1]), arguments, strict=True
        )
    ]
    for one in started:
        one.waits()
    holder.commit()

    answers = [sorted(row["job_id"] for row in one.answer()) for one in started]
    assert answers == [job_ids, job_ids]


def test_a_lease_held_by_its_handler_does_not_keep_the_batch_from_its_heartbeat(conn, session):
    job_ids = [enqueue(conn) for _ in range(3)]
    claimed = claimed_jobs(conn, max_jobs=3)
    token, until = claimed[0]["token"], claimed[0]["lease_until"]
    holder, keeper = session(), session()
    holder.begin()
    holder.call("hold_lease", job_id=job_ids[1], token=token)

    beat = keeper.start(
        "heartbeat_jobs", job_ids=job_ids, tokens=[token] * 3, lease=timedelta(hours=1)
    )
    assert not beat.waits()

    leases = {row["job_id"]: row["lease_until"] for row in beat.answer()}
    assert set(leases) == set(job_ids)
    assert [leases[job_id] == until for job_id in job_ids] == [False, True, False]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize("function", ["finish_job", "heartbeat_job", "release_job"])
def test_recovery_passes_by_a_job_whose_holder_is_about_to_speak(conn, session, function, ending):
    job_id = enqueue(conn)
    held = claim(conn, lease=MOMENT)
    holder = session()
    holder.begin()
    (told,) = holder.call(function, **held)

    assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]
    getattr(holder, ending)()

    recovered = call(conn, "recover_jobs")[0]["recover_jobs"]
    assert recovered == (1 if ending == "rollback" else 0)
    if ending == "commit":
        assert state(conn, job_id) == told.get("state", "RUNNING")


def shut_after_attempts(conn, gate):
    """Let nobody go on who has recorded an attempt, until the gate's transaction ends."""
    conn.execute(
        """
        create function rota_test.wait_at_gate() returns trigger language plpgsql as $$
        begin
            perform pg_advisory_xact_lock(1);
            return null;
        end;
        $$;
        create trigger gate after insert on rota.attempts
            for each row execute function rota_test.wait_at_gate();
        """
    )
    gate.begin()
    gate.conn.execute("select pg_advisory_xact_lock(1)")


def test_recovery_looks_at_the_lease_as_it_is_when_it_has_the_row(conn, session):
    """The lease is extended between the snapshot of a recovery and its lock of the row."""
    enqueue(conn)
    enqueue(conn)
    stays, extended = claim(conn, lease=MOMENT), claim(conn, lease=MOMENT)
    gate, recoverer = session(), session()
    shut_after_attempts(conn, gate)
    first = recoverer.start("recover_jobs", max_jobs=1)
    assert first.waits()

    call(conn, "heartbeat_job", **extended)
    gate.commit()

    assert first.answer() == [{"recover_jobs": 1}]
    assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]
    assert state(conn, stays["job_id"]) == "SCHEDULED"
    assert state(conn, extended["job_id"]) == "RUNNING"


def test_a_finish_that_waits_for_a_recovery_is_told_that_its_lease_is_lost(conn, session):
    enqueue(conn)
    held = claim(conn, lease=MOMENT)
    recoverer, holder = session(), session()
    recoverer.begin()
    assert recoverer.call("recover_jobs") == [{"recover_jobs": 1}]

    late = holder.start("finish_job", **held)
    assert late.waits()
    recoverer.commit()

    with sqlstate("RTC02"):
        late.answer()
    assert executions(conn) == [("LOST",)]


def test_two_recoveries_at_once_take_a_job_back_once(conn, session):
    enqueue(conn)
    claim(conn, lease=MOMENT)
    first, second = session(), session()
    first.begin()

    assert first.call("recover_jobs") == [{"recover_jobs": 1}]
    assert second.call("recover_jobs") == [{"recover_jobs": 0}]
    first.commit()

    assert second.call("recover_jobs") == [{"recover_jobs": 0}]
    assert executions(conn) == [("LOST",)]


def test_hold_lease_keeps_recovery_away_until_effects_and_finish_commit_together(conn, session):
    conn.execute("create table ledger (job_id bigint not null)")
    job_id = enqueue(conn)
    held = claim(conn, lease=MOMENT)
    handler = session()
    handler.begin()
    handler.call("hold_lease", **held)
    handler.conn.execute("insert into ledger values (%s)", [job_id])

    assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]
    handler.call("finish_job", **held)
    assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]
    handler.commit()

    assert conn.execute("select * from ledger").fetchall() == [(job_id,)]
    assert state(conn, job_id) == "COMPLETED"


def test_hold_lease_refuses_before_any_effect_when_a_recovery_is_under_way(conn, session):
    enqueue(conn)
    held = claim(conn, lease=MOMENT)
    recoverer, handler = session(), session()
    recoverer.begin()
    recoverer.call("recover_jobs")
    handler.begin()

    holding = handler.start("hold_lease", **held)
    assert holding.waits()
    recoverer.commit()

    with sqlstate("RTC02"):
        holding.answer()
    handler.rollback()


def test_a_cancel_that_meets_a_claim_asks_the_worker(conn, session):
    job_id = enqueue(conn)
    claimer, operator = session(), session()
    claimer.begin()
    (claimed,) = claimer.call("claim_next_job")

    cancel = operator.start("cancel_job", job_id=job_id)
    assert cancel.waits()
    claimer.commit()

    assert cancel.answer()[0]["state"] == "RUNNING"
    (lease,) = call(conn, "heartbeat_job", job_id=job_id, token=claimed["token"])
    assert lease["cancel_requested"]


def test_a_claim_that_meets_a_cancel_does_not_get_the_job(conn, session):
    job_id = enqueue(conn)
    operator = session()
    operator.begin()
    operator.call("cancel_job", job_id=job_id)

    assert claimed_jobs(conn) == []
    operator.commit()

    assert claimed_jobs(conn) == []
    assert state(conn, job_id) == "CANCELLED"


def test_a_job_retried_by_two_at_once_comes_back_once(conn, session):
    job_id = enqueue(conn)
    call(conn, "cancel_job", job_id=job_id)
    first, second = session(), session()
    first.begin()
    first.call("retry_job", job_id=job_id)

    again = second.start("retry_job", job_id=job_id)
    assert again.waits()
    first.commit()

    with sqlstate("RTC01"):
        again.answer()
    assert conn.execute("select run, state from rota.jobs").fetchall() == [(2, "SCHEDULED")]


def test_a_cancel_between_two_steps_of_a_retry_finds_the_job(conn, session):
    job_id = enqueue(conn)
    call(conn, "cancel_job", job_id=job_id)
    first, second = session(), session()
    first.begin()
    first.call("retry_job", job_id=job_id)

    cancel = second.call("cancel_job", job_id=job_id)
    first.commit()

    assert cancel[0]["state"] == "CANCELLED"
    assert state(conn, job_id) == "SCHEDULED"


def test_a_cancel_whose_job_comes_back_between_its_two_looks_finds_it(conn, session):
    job_id = enqueue(conn)
    call(conn, "cancel_job", job_id=job_id)
    first, second = session(), session()
    first.begin()
    first.call("retry_job", job_id=job_id)
    first.conn.execute("lock table rota.finished_jobs in access exclusive mode")

    # It has looked for a live job already, in vain, and waits to look for one that has ended.
    cancel = second.start("cancel_job", job_id=job_id)
    assert cancel.waits()
    first.commit()

    assert cancel.answer()[0]["state"] == "CANCELLED"
    assert state(conn, job_id) == "CANCELLED"


def test_an_enqueuer_whose_key_s_holder_ends_between_its_two_looks_makes_the_job(conn, session):
    held = enqueue(conn, unique_key="k")
    conn.execute("""
        create function public.pause() returns trigger language plpgsql as $$
        begin
            perform pg_advisory_xact_lock(77);
            return null;
        end $$;
        create trigger pause after insert on rota.live_jobs execute function public.pause();
    """)
    first, second = session(), session()
    first.begin()
    first.conn.execute("select pg_advisory_xact_lock(77)")

    # Its insert has met the holder already, and waits before it asks who that is.
    waiting = second.start("enqueue_job", task="t", unique_key="k")
    assert waiting.waits()
    first.call("finish_job", **claim(first.conn))
    first.commit()

    (made,) = waiting.answer()
    assert made["created"]
    assert made["job_id"] != held


def test_a_job_that_is_committed_late_is_not_skipped_for_one_that_came_after(conn, session):
    producer = session()
    producer.begin()
    (early,) = producer.call("enqueue_job", task="early", priority=1)
    later = [enqueue(conn, task="later", priority=1) for _ in range(2)]

    (first,) = claimed_jobs(conn)
    producer.commit()
    (second,) = claimed_jobs(conn)
    (third,) = claimed_jobs(conn)

    assert [first["id"], second["id"], third["id"]] == [later[0], early["job_id"], later[1]]


def test_a_first_job_of_a_queue_in_an_open_transaction_blocks_no_other_producer(conn, session):
    producer, other = session(), session()
    producer.begin()
    producer.call("enqueue_job", task="t", queue="new", priority=7)

    enqueued = other.start("enqueue_job", task="t", queue="new", priority=7)
    assert not enqueued.waits()
    call(conn, "maintain")
    producer.rollback()

    (claimed,) = claimed_jobs(conn, queues=["new"])
    assert claimed["id"] == enqueued.answer()[0]["job_id"]


def test_an_open_foreign_key_insert_does_not_hide_a_job_from_claims(conn, session):
    conn.execute("create table notes (job_id bigint references rota.live_jobs (id))")
    job_id = enqueue(conn)
    writer = session()
    writer.begin()
    writer.conn.execute("insert into notes values (%s)", [job_id])

    (claimed,) = claimed_jobs(conn)
    writer.rollback()

    assert claimed["id"] == job_id


KINDS = ["hashjoin", "mergejoin", "material", "sort", "hashagg"]
SCANS = ["indexscan", "bitmapscan", "seqscan"]
SWITCHES = [f"enable_{kind}" for kind in KINDS + SCANS]


def test_a_claim_takes_no_more_than_asked_under_any_plan(conn):
    """The function sets some of these itself; the others come from the session."""
    conn.execute(
        "select rota.enqueue_jobs(jsonb_agg(jsonb_build_object('task', 't', 'priority', n % 2)))"
        " from generate_series(1, 1000) as n"
    )
    set_all = "select " + ", ".join(f"set_config('{name}', %s, false)" for name in SWITCHES)

    counts = set()
    for values in product(["on", "off"], repeat=len(SWITCHES)):
        conn.execute(set_all, values)
        conn.execute("discard plans")
        counts.add(conn.execute("select count(*) from rota.claim_next_job()").fetchone()[0])

    assert counts == {1}


@pytest.mark.parametrize("switch", ["enable_seqscan", "plan_cache_mode", "jit"])
def test_a_claim_takes_no_more_than_asked_without_its_own_planner_settings(conn, switch):
    conn.execute(
        "select rota.enqueue_jobs(jsonb_agg(jsonb_build_object('task', 't')))"
        " from generate_series(1, 200)"
    )
    conn.execute(
        "alter function rota.claim_next_job(text[], text, interval, integer, bigint)"
        f" reset {switch}"
    )
    for joins in product(["on", "off"], repeat=4):
        names = ("enable_hashjoin", "enable_nestloop", "enable_material", "enable_indexscan")
        for name, value in zip(names, joins, strict=True):
            conn.execute("select set_config(%s, %s, false)", [name, value])
        conn.execute("discard plans")

        (count,) = conn.execute(
            "select count(*) from rota.claim_next_job(max_jobs => 3)"
        ).fetchone()

        assert count == 3


def test_a_claim_in_an_old_transaction_leases_from_the_present(conn, session):
    enqueue(conn)
    old = session()
    old.begin()
    old.conn.execute("select 1")
    old.conn.execute("select pg_sleep(0.3)")

    (claimed,) = old.call("claim_next_job", lease=timedelta(seconds=0.25))
    (began,) = old.conn.execute("select now()").fetchone()
    old.commit()

    assert claimed["lease_until"] - began >= timedelta(seconds=0.5)


def test_a_claim_that_had_to_wait_leases_from_when_it_found_the_job(conn, session):
    enqueue(conn)
    holder, worker = session(), session()
    holder.begin()
    holder.conn.execute("lock table rota.live_jobs in access exclusive mode")
    claiming = worker.start("claim_next_job", lease=timedelta(seconds=1))
    assert claiming.waits()
    holder.conn.execute("select pg_sleep(0.1)")
    (released_at,) = holder.conn.execute("select clock_timestamp()").fetchone()
    holder.commit()

    (claimed,) = claiming.answer()

    assert claimed["lease_until"] - timedelta(seconds=1) >= released_at
    (started_at,) = conn.execute("select started_at from rota.jobs").fetchone()
    assert started_at >= released_at


def test_a_clock_put_back_delays_recovery_and_runs_nothing_twice(conn, clock):
    job_id = enqueue(conn)
    held = claim(conn)
    clock.advance(-timedelta(hours=1))

    assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]
    assert claimed_jobs(conn) == []
    (lease,) = call(conn, "heartbeat_job", **held)

    assert lease["lease_until"] > datetime.now(UTC)
    assert call(conn, "finish_job", **held)[0]["state"] == "COMPLETED"
    assert state(conn, job_id) == "COMPLETED"


def test_a_clock_put_back_makes_no_slot_of_a_schedule_twice(conn, clock):
    call(conn, "schedule_job", task="tick", every=timedelta(minutes=1))
    slots = []
    for _ in range(4):
        (claimed,) = claimed_jobs(conn)
        slots.append(claimed["scheduled_for"])
        clock.advance(-timedelta(minutes=30))
        (told,) = call(conn, "finish_job", job_id=claimed["id"], token=claimed["token"])
        clock.set(told["run_at"])

    assert slots == sorted(set(slots))


def test_a_clock_put_forward_loses_leases_and_refuses_their_holders(conn, clock):
    enqueue(conn)
    held = claim(conn)
    clock.advance(timedelta(days=1))
    assert call(conn, "recover_jobs") == [{"recover_jobs": 1}]
    clock.advance(-timedelta(days=1))

    with sqlstate("RTC02"):
        call(conn, "finish_job", **held)


@pytest.mark.parametrize(
    "level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE]
)
def test_a_claim_refuses_the_levels_at_which_claims_would_fail_each_other(conn, session, level):
    enqueue(conn)
    strict = session()
    strict.begin(level)

    with sqlstate("RTC04"):
        strict.call("claim_next_job")
    strict.rollback()

    assert len(claimed_jobs(conn)) == 1


@pytest.mark.parametrize(
    "level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE]
)
def test_a_producer_at_a_higher_level_retries_when_its_key_is_newer_than_its_snapshot(
    conn, session, level
):
    producer = session()
    producer.begin(level)
    producer.call("enqueue_job", task="t", unique_key="other")
    enqueue(conn, unique_key="k")

    with sqlstate("40001"):
        producer.call("enqueue_job", task="t", unique_key="k")
    producer.rollback()

    assert conn.execute("select unique_key from rota.jobs").fetchall() == [("k",)]


def test_a_finish_while_a_week_is_prepared_waits_and_then_succeeds(conn, session, clock):
    enqueue(conn)
    held = claim(conn)
    clock.advance(timedelta(days=70))
    upkeep, holder = session(), session()
    upkeep.begin()
    upkeep.call("maintain")

    finish = holder.start("finish_job", **held)
    finish.waits()
    upkeep.commit()

    assert finish.answer()[0]["state"] == "COMPLETED"


def test_upkeep_gives_way_to_a_finish_that_came_first_and_succeeds_later(conn, session, clock):
    enqueue(conn)
    held = claim(conn)
    clock.advance(timedelta(days=70))
    holder, upkeep = session(), session()
    holder.begin()
    holder.call("finish_job", **held)
    weeks = "select count(*) from pg_inherits where inhparent = 'rota.finished_jobs'::regclass"
    (before,) = conn.execute(weeks).fetchone()

    upkeep.call("maintain")
    (meanwhile,) = conn.execute(weeks).fetchone()
    holder.commit()
    upkeep.call("maintain")
    (after,) = conn.execute(weeks).fetchone()

    assert meanwhile == before
    assert after == before + 5
    assert state(conn, held["job_id"]) == "COMPLETED"


def test_a_token_of_another_job_or_of_nobody_locks_and_changes_nothing(conn, session):
    enqueue(conn)
    held = claim(conn)
    holder, stranger = session(), session()
    holder.begin()
    holder.call("hold_lease", **held)

    for pair in ({**held, "token": uuid4()}, {**held, "job_id": held["job_id"] + 1}):
        for function in ("finish_job", "heartbeat_job", "release_job", "hold_lease"):
            call_under_way = stranger.start(function, **pair)
            assert not call_under_way.waits()
            with sqlstate("RTC02"):
                call_under_way.answer()
    holder.rollback()


def test_many_sessions_run_each_slot_of_a_schedule_once(conn, session, clock):
    call(conn, "schedule_job", task="tick", every=timedelta(minutes=1))
    sessions = [session() for _ in range(4)]
    slots = []

    for _ in range(5):
        started = [one.start("claim_next_job") for one in sessions]
        (claimed,) = [row for one in started for row in one.answer()]
        slots.append(claimed["scheduled_for"])
        (told,) = call(conn, "finish_job", job_id=claimed["id"], token=claimed["token"])
        clock.set(told["run_at"])

    assert {later - earlier for earlier, later in pairwise(slots)} == {timedelta(minutes=1)}


def test_a_worker_under_a_dead_one_s_name_neither_keeps_nor_gets_its_jobs(conn, clock):
    about = {"worker": "w", "host": "h", "pid": 1, "queues": ["default"]}
    enqueue(conn)
    dead = claim(conn)
    call(conn, "announce_worker", **about, concurrency=1, version="1")
    clock.advance(timedelta(minutes=2))

    call(conn, "announce_worker", **about, concurrency=1, version="1")

    assert claimed_jobs(conn, worker="w") == []
    assert call(conn, "recover_jobs") == [{"recover_jobs": 1}]
    with sqlstate("RTC02"):
        call(conn, "finish_job", **dead)


def test_jobs_whose_worker_is_forgotten_come_back_all_the_same(conn, clock):
    enqueue(conn)
    claim(conn)
    clock.advance(timedelta(days=2))

    call(conn, "maintain")

    assert call(conn, "recover_jobs") == [{"recover_jobs": 1}]


@pytest.mark.parametrize(
    "function",
    ["claim_next_job", "finish_job", "finish_jobs", "heartbeat_job", "heartbeat_jobs",
     "enqueue_job", "recover_jobs", "release_job", "_end_attempts"],
)  # fmt: skip
def test_the_hot_path_opens_no_subtransactions(conn, function):
    """Each exception block is one; on a busy server they have stalled other queues."""
    (body,) = conn.execute(
        "select p.prosrc from pg_proc as p"
        " where p.pronamespace = 'rota'::regnamespace and p.proname = %s",
        [function],
    ).fetchone()

    assert "exception\n" not in body


# -- a worker that comes back while it is taken for dead

ABOUT = {"host": "h", "pid": 1, "queues": ["default"], "concurrency": 1, "version": "v"}


@pytest.fixture
def cut_off(conn, clock, session, connect):
    """A worker that runs a job and whose session was seen gone for long enough; its name."""
    clock.set(conn.execute("select clock_timestamp()").fetchone()[0])
    worker = str(uuid4())
    with connect() as attending:
        call(attending, "announce_worker", worker=worker, **ABOUT, attends=True)
        pid = attending.info.backend_pid
    there = "select count(*) from pg_stat_activity where pid = %s"
    wait_until(lambda: conn.execute(there, [pid]).fetchone() == (0,))
    enqueue(conn)
    call(conn, "claim_next_job", worker=worker)
    assert look(conn) > timedelta(0)
    clock.advance(timedelta(seconds=2))
    return worker


def look(conn):
    return call(conn, "recover_workers")[0]["recover_workers"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_worker_that_comes_back_before_it_is_taken_for_dead_keeps_its_jobs(
    conn, session, cut_off, ending
):
    back = session()
    back.begin()
    back.call("announce_worker", worker=cut_off, **ABOUT, attends=True)

    assert look(conn) > timedelta(0), "it passes by the row that is being written"
    getattr(back, ending)()

    assert (look(conn) == timedelta(0)) == (ending == "rollback")
    assert call(conn, "recover_jobs") == [{"recover_jobs": ending == "rollback"}]


def test_a_look_that_saw_the_old_session_does_not_take_the_new_one_for_gone(conn, session, cut_off):
    """The worker is back between the snapshot of a look and its lock of the row."""
    conn.execute(
        """
        create function rota_test.slow() returns timestamptz language plpgsql volatile as $$
        begin
            perform pg_advisory_xact_lock(1);
            return greatest(
                pg_postmaster_start_time(), pg_stat_get_bgwriter_stat_reset_time()
            );
        end;
        $$;
        create or replace function rota._server_since() returns timestamptz
            language sql volatile as 'select rota_test.slow()'
        """
    )
    gate, looker, back = session(), session(), session()
    gate.begin()
    gate.conn.execute("select pg_advisory_xact_lock(1)")
    looking = looker.start("recover_workers")
    assert looking.waits()

    back.conn.execute(
        "update rota.workers set backend = pg_backend_pid(), gone_at = null where worker = %s",
        [cut_off],
    )
    gate.commit()

    assert looking.answer()[0]["recover_workers"] > timedelta(0)
    assert conn.execute("select gone_at, stopped_at from rota.workers").fetchone() == (None, None)


def test_a_worker_that_comes_back_while_it_is_taken_for_dead_waits_and_keeps_its_jobs(
    conn, session, cut_off
):
    looker, back = session(), session()
    looker.begin()
    assert looker.call("recover_workers")[0]["recover_workers"] == timedelta(0)

    coming = back.start("announce_worker", worker=cut_off, **ABOUT, attends=True)
    assert coming.waits()
    looker.commit()
    coming.answer()

    assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]
    assert conn.execute("select gone_at, stopped_at from rota.workers").fetchone() == (None, None)


def test_a_worker_that_comes_back_between_two_hundreds_of_its_jobs_keeps_the_rest(
    conn, session, cut_off
):
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}] * 150))
    call(conn, "claim_next_job", worker=cut_off, max_jobs=150)
    conn.execute("update rota.live_jobs set started_at = started_at - interval '1 minute'")
    assert look(conn) == timedelta(0)
    gate, recoverer, back = session(), session(), session()
    shut_after_attempts(conn, gate)
    recovering = recoverer.start("recover_jobs")
    assert recovering.waits()

    back.call("announce_worker", worker=cut_off, **ABOUT, attends=True)
    gate.commit()

    assert recovering.answer() == [{"recover_jobs": 100}]
    assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]


def test_two_looks_at_once_take_a_worker_for_dead_once_and_wait_for_nothing(conn, session, cut_off):
    first, second = session(), session()
    first.begin()
    assert first.call("recover_workers")[0]["recover_workers"] == timedelta(0)

    assert second.call("recover_workers")[0]["recover_workers"] > timedelta(0)
    first.commit()

    assert second.call("recover_workers")[0]["recover_workers"] > timedelta(0)
    assert call(conn, "recover_jobs") == [{"recover_jobs": 1}]


def test_a_finish_that_comes_before_its_worker_is_recovered_counts(conn, session, cut_off):
    assert look(conn) == timedelta(0)
    holder = session()
    holder.begin()
    job_id, token = conn.execute("select id, token from rota.live_jobs").fetchone()
    holder.call("finish_job", job_id=job_id, token=token)

    assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]
    holder.commit()

    assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]
    assert state(conn, job_id) == "COMPLETED"


def test_claims_that_share_a_cursor_keep_nobody_waiting(conn, session):
    one, other = session(), session()
    call(conn, "enqueue_job", task="the lane's first")
    forget_cursors(conn)
    call(conn, "claim_next_job")
    for held in (one, other):
        held.begin()
        scan_slowly(held.conn, shared=True)  # both mark the lane
    for name in ("first", "second"):
        call(conn, "enqueue_job", task=name)

    calls = [held.start("claim_next_job") for held in (one, other)]

    assert [started.waits() for started in calls] == [False, False]
    assert not session().start("maintain").waits()
    (given_back,) = calls[0].answer()
    one.rollback()
    other.commit()
    forget_cursors(conn)
    claimed = call(conn, "claim_next_job", max_jobs=3)
    assert [row["task"] for row in claimed] == [given_back["task"]]
