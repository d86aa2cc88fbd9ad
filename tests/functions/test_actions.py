"""Who did what: each act of an operator is written down in its own transaction."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.calls import CALLS
from tests.concurrency.sessions import forget_cursors, sqlstate

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# What producers and workers do all day, what reads, what the house does for itself; and how to add
# a schedule, which is recorded where it changes one.
NOT_RECORDED = {
    *("enqueue_job", "enqueue_jobs", "enqueue_many", "enqueue_workflow", "schedule_job"),
    *("record_step", "recorded_steps", "sleep_job", "await_event", "emit_event"),
    "parent_results",
    *("next_run", "preview_schedule", "check_invariants", "visible_queues"),
    *("version", "was_deployed"),
    *("explain_job", "doctor", "binding_principals"),
    *("take_census", "roll_up", "statistics_age"),
    *("shard", "shard_of"),
    *("claim_next_job", "finish_job", "finish_jobs", "heartbeat_job", "heartbeat_jobs"),
    *("release_job", "release_unhandled_jobs", "bring_forward_jobs", "hold_lease"),
    *("begin_sleep", "end_sleep", "next_due_in", "announce_worker", "dismiss_worker"),
    *("recover_jobs", "recover_workers", "do_chores", "maintain"),
    *("authenticate_token", "principal_of", "needs_token"),
    *("begin_request", "end_request", "ended_jobs"),
}


def actions(conn):
    query = "select * from rota.actions order by action_id"
    return conn.cursor(row_factory=dict_row).execute(query).fetchall()


@pytest.mark.parametrize(
    ("function", "prepare", "more"),
    CALLS,
    ids=[f"{number}-{function}" for number, (function, *_) in enumerate(CALLS)],
)
def test_what_operators_do_is_recorded_once_and_what_others_do_is_not(
    conn, clock, function, prepare, more
):
    arguments = prepare(conn, clock) | more
    conn.execute("delete from rota.action_log")
    forget_cursors(conn)

    with conn.transaction():
        conn.execute("set local role rota_operator" if function not in NOT_RECORDED else "select")
        call(conn, function, **arguments)

    if function == "schedule_job":
        return
    done = [(action["function"], action["actor"]) for action in actions(conn)]
    assert done == ([] if function in NOT_RECORDED else [(function, "rota_operator")])


def test_an_action_says_of_what_it_was(conn):
    (one,) = call(conn, "enqueue_job", task="t", queue="mail")
    call(conn, "schedule_job", task="t", every=HOUR, name="tick", queue="mail")
    call(conn, "cancel_job", job_id=one["job_id"], reason="enough")
    call(conn, "retry_job", job_id=one["job_id"])
    call(conn, "pause_schedule", name="tick")
    call(conn, "configure_queue", queue="mail", timeout=HOUR, unset=["max_retries"])
    call(conn, "cancel_jobs", filter=Jsonb({"queue": "mail"}), dry_run=False)
    call(conn, "configure_retention", retention=30 * DAY)

    cancel, retry, pause, configure, bulk, retention = actions(conn)

    assert (cancel["job_id"], cancel["queue"]) == (one["job_id"], "mail")
    assert cancel["details"] == {"reason": "enough"}
    assert (retry["job_id"], retry["queue"], retry["details"]) == (one["job_id"], "mail", {})
    assert (pause["schedule"], pause["queue"]) == ("tick", "mail")
    assert configure["details"] == {"timeout": "01:00:00", "unset": ["max_retries"]}
    assert (bulk["affected"], bulk["queue"]) == (1, "mail")
    assert bulk["details"] == {"filter": {"queue": "mail"}, "job_ids": [one["job_id"]]}
    assert retention["details"] == {"retention": "30 days"}
    assert {action["on_behalf_of"] for action in actions(conn)} == {None}


def test_what_is_refused_or_undone_is_not_recorded(conn, connect):
    with sqlstate("RTN03"):
        call(conn, "pause_queue", queue="nowhere")
    with sqlstate("RTN01"):
        call(conn, "cancel_job", job_id=7)
    one = connect(autocommit=False)
    call(one, "configure_queue", queue="mail")
    assert len(actions(one)) == 1
    one.rollback()

    assert actions(conn) == []


def test_a_job_that_is_cancelled_already_is_not_cancelled_again(conn):
    (one,) = call(conn, "enqueue_job", task="t")
    for _ in range(2):
        call(conn, "cancel_job", job_id=one["job_id"])

    assert len(actions(conn)) == 1


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({}, 0),
        ({"starts_at": datetime(2030, 1, 1, tzinfo=UTC)}, 0),
        ({"every": 2 * HOUR}, 1),
        ({"payload": Jsonb({"n": 1})}, 1),
        ({"task": "other"}, 1),
        ({"queue": "mail"}, 1),
        ({"priority": 1}, 1),
        ({"max_retries": 3}, 0),
        ({"max_retries": 4}, 1),
        ({"timeout": HOUR}, 1),
        ({"misfire": "skip"}, 1),
    ],
    ids=str,
)
def test_a_schedule_that_is_made_or_said_again_is_no_action_and_one_that_is_changed_is(
    conn, change, number
):
    given = {
        "task": "t",
        "every": HOUR,
        "name": "tick",
        "starts_at": datetime(2030, 1, 1, tzinfo=UTC),
    }
    call(conn, "schedule_job", **given)
    assert actions(conn) == []

    call(conn, "schedule_job", **given | change)

    assert [(a["function"], a["schedule"]) for a in actions(conn)] == [
        ("schedule_job", "tick")
    ] * number


@pytest.mark.parametrize("character", ["x", "\u00fc", "\\", '"'])
def test_an_action_is_bounded_whatever_was_said(conn, character):
    (one,) = call(conn, "enqueue_job", task="t")
    filter = {"task": character * 100_000, "queue": "q" * 5000}

    call(conn, "cancel_job", job_id=one["job_id"], reason=character * 1000)
    call(conn, "retry_job", job_id=one["job_id"])
    call(conn, "cancel_jobs", filter=Jsonb(filter), dry_run=False)
    conn.execute("select rota._record_action('f', details => %s)", [Jsonb(filter)])

    for (size,) in conn.execute("select octet_length(details::text) from rota.actions"):
        assert size <= 5000


def test_actions_are_kept_as_long_as_history_and_then_removed_however_many(conn, clock):
    conn.execute(
        "insert into rota.action_log (at, actor, function, affected, details)"
        " select rota._now(), 'a', 'f', 1, '{}' from generate_series(1, 10001)"
    )
    clock.advance(91 * DAY)
    call(conn, "configure_queue", queue="mail")

    call(conn, "maintain")

    assert [action["function"] for action in actions(conn)] == ["configure_queue"]


def test_upkeep_passes_by_actions_that_somebody_holds(conn, connect, clock):
    call(conn, "configure_queue", queue="mail")
    clock.advance(91 * DAY)
    holder = connect(autocommit=False)
    holder.execute("select from rota.action_log for update")

    call(conn, "maintain")

    assert len(actions(conn)) == 1
    holder.rollback()


def test_operators_and_readers_see_actions_and_nobody_else_does(conn, connect):
    call(conn, "configure_queue", queue="mail")

    for role in ("rota_operator", "rota_reader"):
        assert len(actions(connect(role))) == 1
    for role in ("rota_producer", "rota_worker", "rota_api"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            actions(connect(role))
