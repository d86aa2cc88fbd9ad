"""How attempts end: finished, failed, released, taken back; and who may end them."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.concurrency.sessions import sqlstate
from tests.functions.views import as_before, job
from tests.functions.views import attempts as executions


def claimed_job(conn, **arguments):
    call(conn, "enqueue_job", **{"task": "work", **arguments})
    (claimed,) = call(conn, "claim_next_job", worker="w")
    return {"job_id": claimed["id"], "token": claimed["token"]}


def everything(conn):
    """All rows that a call could have changed."""
    return [
        conn.execute(query).fetchall()
        for query in (
            "select * from rota.live_jobs order by id",
            "select * from rota.finished_jobs order by id",
            "select * from rota.attempts order by job_id, finished_at",
        )
    ]


def test_a_success_completes_the_job_and_records_the_attempt(conn):
    held = claimed_job(conn)

    (told,) = call(conn, "finish_job", **held, result=Jsonb({"sum": 3}))

    assert told == {"job_id": held["job_id"], "state": "COMPLETED", "run_at": None}
    found = job(conn, held["job_id"])
    assert (found["state"], found["result"]) == ("COMPLETED", {"sum": 3})
    assert found["finished_at"] is not None
    (execution,) = executions(conn, held["job_id"])
    assert (execution["outcome"], execution["run"], execution["attempt"]) == ("SUCCEEDED", 1, 1)
    assert (execution["worker"], execution["token"]) == ("w", held["token"])
    assert execution["result"] == {"sum": 3}


def shown(conn, job_id):
    """What people read of a job's attempts; both views must say the same."""
    columns = "job_id, run, attempt, outcome::text, worker, started_at, finished_at, error, result"
    columns += ", scheduled_for, job_state::text, next_run_at"
    ended, every = (
        conn.execute(
            f"select {columns} from {view} where job_id = %s order by finished_at",  # noqa: S608
            [job_id],
        ).fetchall()
        for view in ("rota.job_executions", "rota.executions")
    )
    assert ended == every
    return ended


def test_a_one_time_job_that_completes_is_its_own_last_attempt(conn):
    """One row instead of two, and all is to be read that two would say."""
    one, two = claimed_job(conn), claimed_job(conn)
    call(conn, "finish_job", **one, error="boom", retry_in=timedelta(0))
    (again,) = call(conn, "claim_next_job", worker="v")
    call(conn, "finish_job", job_id=one["job_id"], token=again["token"], result=Jsonb({"a": 1}))
    # An error among the rest of its batch has each of them judged by itself.
    in_one_batch(conn, two, claimed_job(conn), errors=[None, "x"], results=[Jsonb(2), None])

    assert [row[0] for row in conn.execute("select outcome from rota.attempts").fetchall()] == [
        "FAILED",
        "FAILED",
    ]
    for held, number, result in ((one, 2, {"a": 1}), (two, 1, 2)):
        found = job(conn, held["job_id"])
        assert shown(conn, held["job_id"])[number - 1 :] == [
            (
                held["job_id"], 1, number, "SUCCEEDED", found["worker"], found["started_at"],
                found["finished_at"], None, result, found["scheduled_for"], "COMPLETED", None,
            )
        ]  # fmt: skip


def test_no_other_end_is_told_by_the_finished_row_alone(conn, clock):
    """A job that may be retried leaves its finished row then, and its attempts must not go."""
    failed, cancelled = claimed_job(conn, max_retries=0), claimed_job(conn)
    call(conn, "cancel_job", job_id=cancelled["job_id"])
    call(conn, "schedule_job", task="last", every=timedelta(hours=1), max_runs=1)
    clock.advance(timedelta(hours=1))
    (last,) = call(conn, "claim_next_job")

    call(conn, "finish_job", **failed, error="x")
    call(conn, "finish_job", **cancelled)
    call(conn, "finish_job", job_id=last["id"], token=last["token"])

    assert conn.execute(
        "select state::text, token from rota.finished_jobs order by id"
    ).fetchall() == [("FAILED", None), ("CANCELLED", None), ("COMPLETED", None)]
    for held in (failed, cancelled):
        before = shown(conn, held["job_id"])
        call(conn, "retry_job", job_id=held["job_id"])
        (again,) = call(conn, "claim_next_job")
        call(conn, "finish_job", job_id=again["id"], token=again["token"])
        assert shown(conn, held["job_id"])[:1] == before
        assert [row[1:4] for row in shown(conn, held["job_id"])[1:]] == [(2, 1, "SUCCEEDED")]


@pytest.mark.parametrize(
    ("column", "value"), [("state", "FAILED"), ("schedule_type", "CRON"), ("started_at", None)]
)
def test_the_table_refuses_a_finished_row_that_cannot_be_an_attempt(conn, column, value):
    call(conn, "finish_job", **claimed_job(conn))

    with sqlstate("23514"):
        conn.execute(
            sql.SQL("update rota.finished_jobs set {} = %s").format(sql.Identifier(column)), [value]
        )


def test_a_success_of_before_is_shown_once_and_its_repeat_gets_the_answer_of_then(conn):
    held = claimed_job(conn)
    call(conn, "finish_job", **held, result=Jsonb({"a": 1}))
    new = shown(conn, held["job_id"])
    as_before(conn, held["job_id"])

    assert shown(conn, held["job_id"]) == new
    assert call(conn, "finish_job", **held, result=Jsonb({"a": 1}))[0]["state"] == "COMPLETED"
    assert in_one_batch(conn, held, results=[Jsonb({"a": 1})]) == [(held["job_id"], "COMPLETED")]
    with sqlstate("RTC03"):
        call(conn, "finish_job", **held, result=Jsonb({"a": 2}))


def test_a_repeated_finish_of_a_job_that_completed_is_told_from_another(conn):
    held = claimed_job(conn)
    result = Jsonb({"a": 1})
    (told,) = call(conn, "finish_job", **held, result=result)

    assert call(conn, "finish_job", **held, result=result) == [told]
    assert in_one_batch(conn, held, results=[result]) == [(held["job_id"], "COMPLETED")]
    for other in ({"error": "x"}, {"result": Jsonb({"a": 2})}, {}):
        with sqlstate("RTC03"):
            call(conn, "finish_job", **held, **other)
    with sqlstate("RTC02"):
        call(conn, "finish_job", job_id=held["job_id"], token=uuid4())
    with sqlstate("RTC02"):
        call(conn, "release_job", **held)
    assert call(
        conn, "release_unhandled_jobs", job_ids=[held["job_id"]], tokens=[held["token"]]
    ) == [{"job_id": held["job_id"], "outcome": "LEASE_LOST"}]


def test_a_failure_with_retries_left_waits_for_its_backoff(conn):
    held = claimed_job(conn, max_retries=1)

    (told,) = call(conn, "finish_job", **held, error="boom")

    assert told["state"] == "SCHEDULED"
    assert timedelta(0) <= told["run_at"] - datetime.now(UTC) + timedelta(seconds=1)
    assert told["run_at"] - datetime.now(UTC) <= timedelta(seconds=5)
    found = job(conn, held["job_id"])
    assert (found["state"], found["attempt"], found["last_error"]) == ("SCHEDULED", 1, "boom")
    assert (found["worker"], found["lease_until"], found["started_at"]) == (None, None, None)


def test_max_retries_of_three_means_four_attempts(conn, clock):
    call(conn, "enqueue_job", task="work", max_retries=3)

    states = []
    for _ in range(4):
        clock.advance(timedelta(hours=2))
        (claimed,) = call(conn, "claim_next_job")
        (told,) = call(
            conn, "finish_job", job_id=claimed["id"], token=claimed["token"], error="boom"
        )
        states.append(told["state"])

    assert states == ["SCHEDULED", "SCHEDULED", "SCHEDULED", "FAILED"]
    assert [row["attempt"] for row in executions(conn, claimed["id"])] == [1, 2, 3, 4]
    assert job(conn, claimed["id"])["last_error"] == "boom"


def test_the_caller_may_forbid_the_retry_or_set_its_delay(conn):
    forbidden = claimed_job(conn)
    delayed = claimed_job(conn)

    (first,) = call(conn, "finish_job", **forbidden, error="no such user", retry=False)
    (second,) = call(conn, "finish_job", **delayed, error="busy", retry_in=timedelta(hours=3))

    assert first["state"] == "FAILED"
    assert second["state"] == "SCHEDULED"
    assert abs(second["run_at"] - datetime.now(UTC) - timedelta(hours=3)) < timedelta(minutes=1)


def test_a_failure_after_the_timeout_is_recorded_as_timed_out(conn, clock):
    held = claimed_job(conn, timeout=timedelta(seconds=10))
    clock.advance(timedelta(seconds=11))

    call(conn, "finish_job", **held, error="timed out")

    assert executions(conn, held["job_id"])[0]["outcome"] == "TIMED_OUT"


def test_a_repeated_finish_gets_the_same_answer_and_changes_nothing(conn):
    held = claimed_job(conn)
    first = call(conn, "finish_job", **held, error="boom")
    before = everything(conn)

    assert call(conn, "finish_job", **held, error="boom") == first
    assert everything(conn) == before


def test_a_repeat_is_answered_even_when_the_job_has_moved_on(conn, clock):
    held = claimed_job(conn)
    first = call(conn, "finish_job", **held, error="boom")
    clock.advance(timedelta(hours=1))
    call(conn, "claim_next_job")
    before = everything(conn)

    assert call(conn, "finish_job", **held, error="boom") == first
    assert everything(conn) == before


@pytest.mark.parametrize(
    "other", [{"error": "boom"}, {"result": Jsonb(2)}, {"result": None}], ids=str
)
def test_another_outcome_under_the_same_token_is_a_conflict(conn, other):
    held = claimed_job(conn)
    call(conn, "finish_job", **held, result=Jsonb(1))
    before = everything(conn)

    with pytest.raises(psycopg.Error, match="another outcome") as caught:
        call(conn, "finish_job", **held, **other)

    assert caught.value.sqlstate == "RTC03"
    assert everything(conn) == before


@pytest.mark.parametrize("function", ["finish_job", "release_job", "heartbeat_job", "hold_lease"])
def test_a_token_that_lost_its_lease_is_refused_and_changes_nothing(conn, clock, function):
    late = claimed_job(conn)
    clock.advance(timedelta(minutes=2))
    assert call(conn, "recover_jobs") == [{"recover_jobs": 1}]
    clock.advance(timedelta(hours=2))
    call(conn, "claim_next_job")
    before = everything(conn)

    with pytest.raises(psycopg.Error, match="not held") as caught:
        call(conn, function, **late)

    assert caught.value.sqlstate == "RTC02"
    assert everything(conn) == before


@pytest.mark.parametrize("function", ["finish_job", "release_job", "heartbeat_job", "hold_lease"])
def test_a_token_that_was_never_issued_is_refused(conn, function):
    held = claimed_job(conn)

    for job_id, token in (
        (held["job_id"], uuid4()),
        (held["job_id"] + 1, held["token"]),
        (held["job_id"], None),
        (None, held["token"]),
    ):
        with pytest.raises(psycopg.Error) as caught:
            call(conn, function, job_id=job_id, token=token)
        assert caught.value.sqlstate == "RTC02"


def test_a_holder_whose_lease_ran_out_but_was_not_taken_back_may_finish(conn, clock):
    held = claimed_job(conn)
    clock.advance(timedelta(hours=1))

    (told,) = call(conn, "finish_job", **held)

    assert told["state"] == "COMPLETED"


def test_a_release_gives_the_attempt_and_the_place_in_line_back(conn):
    call(conn, "enqueue_job", task="first")
    call(conn, "enqueue_job", task="second")
    (claimed,) = call(conn, "claim_next_job")

    (told,) = call(
        conn, "release_job", job_id=claimed["id"], token=claimed["token"], reason="shutdown"
    )

    assert told["state"] == "SCHEDULED"
    assert job(conn, claimed["id"])["last_error"] == "shutdown"
    (again,) = call(conn, "claim_next_job")
    assert (again["task"], again["attempt"]) == ("first", 1)
    (execution,) = executions(conn, claimed["id"])
    assert (execution["outcome"], execution["error"]) == ("RELEASED", "shutdown")


def test_a_release_may_ask_for_a_delay_and_can_be_repeated(conn):
    held = claimed_job(conn)

    (told,) = call(conn, "release_job", **held, delay=timedelta(hours=1))

    assert told["run_at"] - datetime.now(UTC) > timedelta(minutes=59)
    assert call(conn, "release_job", **held, delay=timedelta(hours=1)) == [told]
    with pytest.raises(psycopg.Error) as caught:
        call(conn, "finish_job", **held)
    assert caught.value.sqlstate == "RTC02"


@pytest.mark.parametrize(
    ("function", "argument"), [("finish_job", "retry_in"), ("release_job", "delay")]
)
@pytest.mark.parametrize("delay", ["-1 second", "2 years"])
def test_a_delay_out_of_range_is_named_and_the_lease_kept(conn, function, argument, delay):
    held = claimed_job(conn)
    error = {"error": "x"} if function == "finish_job" else {}

    with pytest.raises(psycopg.Error, match=argument) as caught:
        call(conn, function, **held, **error, **{argument: delay})

    assert caught.value.sqlstate == "RTV01"
    assert call(conn, "finish_job", **held)[0]["state"] == "COMPLETED"


def test_a_batch_ends_in_one_call_each_with_its_own_outcome(conn, clock):
    lost = claimed_job(conn, max_retries=0)  # a retry might be due before the next claim
    clock.advance(timedelta(minutes=2))
    call(conn, "recover_jobs")
    done, failed, dead = claimed_job(conn), claimed_job(conn), claimed_job(conn, max_retries=0)
    past = claimed_job(conn)
    call(conn, "finish_job", **past)
    conflict = claimed_job(conn)
    call(conn, "finish_job", **conflict, error="x")
    batch = [dead, lost, done, conflict, failed, past]

    rows = call(
        conn,
        "finish_jobs",
        job_ids=[held["job_id"] for held in batch],
        tokens=[held["token"] for held in batch],
        errors=["boom", None, None, None, "boom", None],
        results=[None, None, Jsonb({"a": 1}), None, None, None],
    )

    assert [row["job_id"] for row in rows] == [held["job_id"] for held in batch]
    assert [row["outcome"] for row in rows] == [
        "FAILED",
        "LEASE_LOST",
        "COMPLETED",
        "CONFLICT",
        "SCHEDULED",
        "COMPLETED",
    ]
    assert job(conn, done["job_id"])["result"] == {"a": 1}


def test_a_batch_tells_two_tokens_of_one_job_apart(conn, clock):
    late = claimed_job(conn)
    clock.advance(timedelta(minutes=2))
    call(conn, "recover_jobs")
    clock.advance(timedelta(hours=2))
    (again,) = call(conn, "claim_next_job")

    rows = call(
        conn,
        "finish_jobs",
        job_ids=[late["job_id"]] * 3,
        tokens=[late["token"], again["token"], again["token"]],
        errors=["late", None, None],
    )

    assert [row["outcome"] for row in rows] == ["LEASE_LOST", "COMPLETED", "COMPLETED"]
    assert len(executions(conn, late["job_id"])) == 2


def in_one_batch(conn, *batch, **arguments):
    rows = call(
        conn,
        "finish_jobs",
        job_ids=[held["job_id"] for held in batch],
        tokens=[held["token"] for held in batch],
        **arguments,
    )
    return [(row["job_id"], row["outcome"]) for row in rows]


def recorded(conn, jobs):
    """What is on record of these jobs, but for ids, tokens and times."""
    cursor = conn.cursor(row_factory=dict_row)
    finished = cursor.execute(
        "select * from rota.finished_jobs where id = any(%s) order by id", [jobs]
    ).fetchall()
    attempts = [row for job_id in jobs for row in executions(conn, job_id)]
    return [
        {
            column: value
            for column, value in row.items()
            if column not in ("id", "job_id", "token") and not isinstance(value, datetime)
        }
        for row in finished + attempts
    ]


def test_a_batch_of_successes_leaves_the_records_that_single_finishes_leave(conn, clock):
    def batch_of_three():
        retried = claimed_job(conn)
        call(conn, "finish_job", **retried, error="the first time", retry_in=timedelta(0))
        (again,) = call(conn, "claim_next_job", worker="w")
        reporting = claimed_job(
            conn,
            payload=Jsonb({"a": 1}),
            queue="default",
            priority=3,
            max_retries=7,
            timeout=timedelta(seconds=9),
        )
        call(conn, "heartbeat_job", **reporting, progress=Jsonb(0.5))
        clock.advance(timedelta(seconds=10))
        return [retried | {"token": again["token"]}, reporting, claimed_job(conn)]

    results = [Jsonb({"b": 2}), None, Jsonb(None)]
    together, apart = batch_of_three(), batch_of_three()

    assert in_one_batch(conn, *reversed(together), results=results[::-1]) == [
        (held["job_id"], "COMPLETED") for held in reversed(together)
    ]
    for held, result in zip(apart, results, strict=True):
        # An error among the rest of its batch has each of them judged by itself.
        other = claimed_job(conn)
        assert in_one_batch(conn, held, other, results=[result, None], errors=[None, "boom"])[
            0
        ] == (held["job_id"], "COMPLETED")

    found = recorded(conn, [held["job_id"] for held in together])
    assert found == recorded(conn, [held["job_id"] for held in apart])
    assert len(found) == 3 + 4
    assert in_one_batch(conn, *together, results=results) == [
        (held["job_id"], "COMPLETED") for held in together
    ]


def test_a_batch_of_successes_judges_those_that_are_not_plain(conn, clock):
    call(conn, "schedule_job", task="every", every=timedelta(hours=1))
    clock.advance(timedelta(hours=1))
    (run,) = call(conn, "claim_next_job", worker="w")
    cancelled, plain, other = claimed_job(conn), claimed_job(conn), claimed_job(conn)
    call(conn, "cancel_job", job_id=cancelled["job_id"])
    recurring = {"job_id": run["id"], "token": run["token"]}

    assert in_one_batch(conn, recurring, plain) == [
        (recurring["job_id"], "SCHEDULED"),
        (plain["job_id"], "COMPLETED"),
    ]
    assert in_one_batch(conn, other, cancelled) == [
        (other["job_id"], "COMPLETED"),
        (cancelled["job_id"], "CANCELLED"),
    ]


def test_a_batch_of_successes_does_not_take_one_jobs_token_for_another(conn):
    one, two, three = claimed_job(conn), claimed_job(conn), claimed_job(conn)
    crossed = [one | {"token": two["token"]}, two | {"token": one["token"]}, three]

    assert in_one_batch(conn, *crossed) == [
        (one["job_id"], "LEASE_LOST"),
        (two["job_id"], "LEASE_LOST"),
        (three["job_id"], "COMPLETED"),
    ]
    assert in_one_batch(conn, one, one, two) == [
        (one["job_id"], "COMPLETED"),
        (one["job_id"], "COMPLETED"),
        (two["job_id"], "COMPLETED"),
    ]
    assert len(executions(conn, one["job_id"])) == 1


@pytest.mark.parametrize(
    "lengths",
    [{"tokens": []}, {"errors": ["a", "b"]}, {"results": [None, None]}, {"job_ids": None}],
    ids=str,
)
def test_a_batch_of_uneven_lengths_is_refused(conn, lengths):
    held = claimed_job(conn)

    with pytest.raises(psycopg.Error, match="same length") as caught:
        call(
            conn,
            "finish_jobs",
            **{"job_ids": [held["job_id"]], "tokens": [held["token"]], **lengths},
        )

    assert caught.value.sqlstate == "RTV01"


def test_an_empty_batch_is_nothing(conn):
    assert call(conn, "finish_jobs", job_ids=[], tokens=[]) == []
    assert call(conn, "heartbeat_jobs", job_ids=[], tokens=[]) == []


def test_a_long_error_is_cut_and_its_repeat_still_recognized(conn):
    held = claimed_job(conn)
    first = call(conn, "finish_job", **held, error="x" * 50_000)

    assert len(executions(conn, held["job_id"])[0]["error"]) == 10_000
    assert call(conn, "finish_job", **held, error="x" * 50_000) == first


def test_a_heartbeat_lengthens_a_lease_and_never_shortens_it(conn):
    held = claimed_job(conn)

    (longer,) = call(
        conn, "heartbeat_job", **held, lease=timedelta(hours=1), progress=Jsonb({"done": 3})
    )
    (same,) = call(conn, "heartbeat_job", **held, lease=timedelta(seconds=1))

    assert longer["lease_until"] - datetime.now(UTC) > timedelta(minutes=59)
    assert same == {"lease_until": longer["lease_until"], "cancel_requested": False}
    assert job(conn, held["job_id"])["progress"] == {"done": 3}


def test_a_batch_of_heartbeats_leaves_out_what_is_lost(conn):
    held, other = claimed_job(conn), claimed_job(conn)

    rows = call(
        conn,
        "heartbeat_jobs",
        job_ids=[held["job_id"], other["job_id"], other["job_id"]],
        tokens=[held["token"], held["token"], uuid4()],
        lease=timedelta(hours=1),
    )

    assert [row["job_id"] for row in rows] == [held["job_id"]]
    assert rows[0]["lease_until"] - datetime.now(UTC) > timedelta(minutes=59)
    assert job(conn, other["job_id"])["lease_until"] - datetime.now(UTC) < timedelta(minutes=2)


def test_recovery_takes_back_what_ran_out_and_nothing_else(conn, clock):
    lost = claimed_job(conn)
    clock.advance(timedelta(seconds=30))
    alive = claimed_job(conn)
    clock.advance(timedelta(seconds=31))

    assert call(conn, "recover_jobs") == [{"recover_jobs": 1}]

    assert job(conn, lost["job_id"])["state"] == "SCHEDULED"
    assert job(conn, lost["job_id"])["attempt"] == 1
    assert job(conn, alive["job_id"])["state"] == "RUNNING"
    (execution,) = executions(conn, lost["job_id"])
    assert execution["outcome"] == "LOST"
    assert "w" in execution["error"]


def test_a_job_that_always_kills_its_worker_runs_out_of_attempts(conn, clock):
    call(conn, "enqueue_job", task="poison", max_retries=2)

    for _ in range(3):
        clock.advance(timedelta(hours=2))
        (claimed,) = call(conn, "claim_next_job")
        clock.advance(timedelta(minutes=2))
        call(conn, "recover_jobs")

    assert job(conn, claimed["id"])["state"] == "FAILED"
    assert [row["outcome"] for row in executions(conn, claimed["id"])] == ["LOST"] * 3


def test_recovery_takes_no_more_than_asked(conn, clock):
    for _ in range(5):
        claimed_job(conn)
    clock.advance(timedelta(minutes=2))

    assert call(conn, "recover_jobs", max_jobs=2) == [{"recover_jobs": 2}]
    assert call(conn, "recover_jobs") == [{"recover_jobs": 3}]
    assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]


@pytest.mark.parametrize("attempt", [1, 2, 10, 50, 1001, 2_000_000_000])
def test_backoff_is_total_jittered_and_capped(conn, attempt):
    for base, cap, bound in (
        ("5 seconds", "1 hour", min(5 * 2 ** (min(attempt, 30) - 1), 3600)),
        ("1 year", "1 year", 31_557_600),
        ("1 microsecond", "1 year", min(1e-6 * 2 ** (min(attempt, 41) - 1), 31_557_600)),
        ("1 hour", "1 second", 1),
        (None, None, min(5 * 2 ** (min(attempt, 30) - 1), 3600)),
    ):
        seconds = [
            row[0]
            for row in conn.execute(
                """
                select extract(epoch from rota._backoff(%s, %s, %s))::float8
                from generate_series(1, 200)
                """,
                [attempt, base, cap],
            )
        ]

        assert all(0 <= value <= bound for value in seconds)
        if bound > 0.01:
            assert max(seconds) > 0.8 * bound
            assert min(seconds) < 0.2 * bound


def test_an_interval_job_that_always_fails_goes_on_for_ever(conn, clock):
    call(conn, "schedule_job", task="tick", every=timedelta(minutes=1), name="tick", max_retries=0)
    slots = []

    for _ in range(50):
        (claimed,) = call(conn, "claim_next_job")
        slots.append(claimed["scheduled_for"])
        (told,) = call(
            conn, "finish_job", job_id=claimed["id"], token=claimed["token"], error="boom"
        )
        assert told["state"] == "SCHEDULED"
        clock.advance(told["run_at"] - claimed["scheduled_for"])

    assert {later - earlier for earlier, later in pairwise(slots)} == {timedelta(minutes=1)}
    assert len(executions(conn, claimed["id"])) == 50


def leases(conn):
    return conn.execute("select id, lease_until from rota.jobs order by id").fetchall()


def test_a_batch_of_heartbeats_does_not_take_one_jobs_token_for_another(connect):
    conn, other = connect(), connect(autocommit=False)
    one, two = claimed_job(conn), claimed_job(conn)
    crossed = {"job_ids": [one["job_id"], two["job_id"]], "tokens": [two["token"], one["token"]]}
    before = leases(conn)

    assert call(conn, "heartbeat_jobs", **crossed, lease=timedelta(hours=1)) == []
    call(other, "hold_lease", **one)
    assert call(conn, "heartbeat_jobs", **crossed, lease=timedelta(hours=1)) == []
    other.rollback()

    assert leases(conn) == before


def test_a_batch_of_heartbeats_answers_with_the_lease_of_what_it_cannot_extend(connect):
    conn, other = connect(), connect(autocommit=False)
    held, free = claimed_job(conn), claimed_job(conn)
    call(conn, "cancel_job", job_id=held["job_id"])
    call(other, "hold_lease", **held)
    (_, until), _ = leases(conn)

    rows = call(
        conn,
        "heartbeat_jobs",
        job_ids=[held["job_id"], free["job_id"]],
        tokens=[held["token"], free["token"]],
        lease=timedelta(hours=1),
    )
    other.rollback()

    found = {row["job_id"]: (row["lease_until"], row["cancel_requested"]) for row in rows}
    assert found == {
        held["job_id"]: (until, True),
        free["job_id"]: (job(conn, free["job_id"])["lease_until"], False),
    }
    assert found[free["job_id"]][0] > until + timedelta(minutes=50)


FINISHES = {
    "a success": {"result": Jsonb(1)},
    "a failure that waits": {"error": "boom", "result": Jsonb(1)},
    "a failure for good": {"error": "boom", "retry": False},
    "a cancel": {"error": "stopped"},
}


@pytest.mark.parametrize("recurring", [False, True])
@pytest.mark.parametrize("way", FINISHES)
def test_each_ending_is_told_again_when_it_is_told_twice(conn, clock, way, recurring):
    if recurring:
        call(conn, "schedule_job", task="tick", every=timedelta(hours=1), name="tick")
        (claimed,) = call(conn, "claim_next_job")
        held = {"job_id": claimed["id"], "token": claimed["token"]}
    else:
        held = claimed_job(conn)
    if way == "a cancel":
        call(conn, "cancel_job", job_id=held["job_id"])

    (told,) = call(conn, "finish_job", **held, **FINISHES[way])

    found = job(conn, held["job_id"])
    assert told["state"] == found["state"]
    assert told["run_at"] == (found["run_at"] if told["state"] == "SCHEDULED" else None)
    clock.advance(timedelta(hours=3))
    if told["state"] == "SCHEDULED":
        (later,) = call(conn, "claim_next_job")
        call(conn, "finish_job", job_id=later["id"], token=later["token"], result=Jsonb(2))
    assert call(conn, "finish_job", **held, **FINISHES[way]) == [told]
    pair = {"job_ids": [held["job_id"]], "tokens": [held["token"]]}
    values = {
        f"{name}s": [FINISHES[way][name]] for name in ("error", "result") if name in FINISHES[way]
    }
    assert [row["outcome"] for row in call(conn, "finish_jobs", **pair, **values)] == [
        told["state"]
    ]


def test_recovery_takes_back_the_jobs_of_the_lowest_ids_first(conn, clock):
    ids = [claimed_job(conn)["job_id"] for _ in range(4)]
    clock.advance(timedelta(minutes=2))

    call(conn, "recover_jobs", max_jobs=2)

    assert [job(conn, job_id)["state"] for job_id in ids] == ["SCHEDULED"] * 2 + ["RUNNING"] * 2


def test_a_lease_is_lost_a_moment_after_its_end_and_not_at_it(conn, clock):
    held = claimed_job(conn)
    until = job(conn, held["job_id"])["lease_until"]
    freeze = "create or replace function rota._now() returns timestamptz language sql as $$ {} $$"
    conn.execute(freeze.format(f"select timestamptz '{until}'"))
    assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]

    conn.execute(freeze.format(f"select timestamptz '{until}' + interval '1 us'"))

    assert call(conn, "recover_jobs") == [{"recover_jobs": 1}]


def test_an_attempt_is_timed_out_from_its_timeout_on(conn):
    outcomes = []
    freeze = "create or replace function rota._now() returns timestamptz language sql as $$ {} $$"
    for late in ("-1 us", "0 us"):
        conn.execute(freeze.format("select clock_timestamp()"))
        held = claimed_job(conn, timeout=timedelta(seconds=10))
        started = job(conn, held["job_id"])["started_at"]
        conn.execute(freeze.format(f"select timestamptz '{started}' + interval '10 s {late}'"))
        call(conn, "finish_job", **held, error="boom", retry=False)
        outcomes.append(executions(conn, held["job_id"])[0]["outcome"])

    assert outcomes == ["FAILED", "TIMED_OUT"]


def test_a_release_without_a_delay_keeps_the_place_in_line(conn):
    run_at = datetime(2020, 1, 1, tzinfo=UTC)
    held = claimed_job(conn, run_at=run_at)

    (told,) = call(conn, "release_job", **held, delay=None)

    assert told["run_at"] == run_at


def test_a_batch_answers_in_the_order_of_its_pairs(conn):
    jobs = [claimed_job(conn, max_retries=0) for _ in range(60)]
    order = [(number * 37) % 60 for number in range(60)]
    batch = [jobs[number] for number in order]
    errors = [None if number % 3 else "boom" for number in order]

    assert in_one_batch(conn, *batch, errors=errors) == [
        (held["job_id"], "FAILED" if error else "COMPLETED")
        for held, error in zip(batch, errors, strict=True)
    ]


@pytest.mark.parametrize(
    ("errors", "outcomes"),
    [
        ([None, "x"], ["COMPLETED", "CONFLICT"]),
        (["x", None], ["FAILED", "CONFLICT"]),
        (["x", "x"], ["FAILED", "FAILED"]),
        ([None, None], ["COMPLETED", "COMPLETED"]),
    ],
)
@pytest.mark.parametrize("others", [0, 1])
def test_of_a_pair_that_comes_twice_in_a_batch_the_first_counts(conn, errors, outcomes, others):
    held = claimed_job(conn, max_retries=0)
    more = [claimed_job(conn) for _ in range(others)]
    batch = [held, *more, held]

    rows = call(
        conn,
        "finish_jobs",
        job_ids=[one["job_id"] for one in batch],
        tokens=[one["token"] for one in batch],
        errors=[errors[0], *[None] * others, errors[1]],
    )

    assert [row["outcome"] for row in rows] == [
        outcomes[0],
        *["COMPLETED"] * others,
        outcomes[1],
    ]
    assert job(conn, held["job_id"])["state"] == outcomes[0]
    assert len(executions(conn, held["job_id"])) == 1


def test_of_a_pair_that_comes_twice_with_two_results_the_first_is_kept(conn):
    held = claimed_job(conn)

    rows = call(
        conn,
        "finish_jobs",
        job_ids=[held["job_id"]] * 2,
        tokens=[held["token"]] * 2,
        results=[Jsonb("first"), Jsonb("second")],
    )

    assert [row["outcome"] for row in rows] == ["COMPLETED", "CONFLICT"]
    assert job(conn, held["job_id"])["result"] == "first"


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_repeated_release_gets_the_answer_of_the_first(conn, cancelled):
    call(conn, "enqueue_job", task="t")
    (claimed,) = call(conn, "claim_next_job")
    held = {"job_id": claimed["id"], "token": claimed["token"]}
    if cancelled:
        call(conn, "cancel_job", job_id=claimed["id"])

    (first,) = call(conn, "release_job", **held, delay=timedelta(hours=1))
    (second,) = call(conn, "release_job", **held, delay=timedelta(hours=1))

    assert first["state"] == ("CANCELLED" if cancelled else "SCHEDULED")
    assert second == first


def test_a_release_after_a_finish_is_refused(conn):
    call(conn, "enqueue_job", task="t")
    (claimed,) = call(conn, "claim_next_job")
    held = {"job_id": claimed["id"], "token": claimed["token"]}
    call(conn, "finish_job", **held)

    with sqlstate("RTC02"):
        call(conn, "release_job", **held)
