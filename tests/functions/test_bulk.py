"""Many jobs at once: what a filter asks for, up to a number, or only counted."""

from datetime import UTC, datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.concurrency.sessions import forget_cursors, sqlstate
from tests.functions.views import job

HOUR = timedelta(hours=1)
LATER = datetime(2100, 1, 1, tzinfo=UTC)


def enqueue(conn, **arguments):
    return call(conn, "enqueue_job", **{"task": "t", **arguments})[0]["job_id"]


def claimed(conn, queue):
    forget_cursors(conn)
    (row,) = call(conn, "claim_next_job", queues=[queue])
    return {"job_id": row["id"], "token": row["token"]}


def failed(conn, **arguments):
    job_id = enqueue(conn, **{"queue": "failing", **arguments})
    held = claimed(conn, arguments.get("queue", "failing"))
    call(conn, "finish_job", **held, error="x", retry=False)
    return job_id


def cancelled(conn, **arguments):
    job_id = enqueue(conn, **arguments)
    call(conn, "cancel_job", job_id=job_id)
    return job_id


def bulk(conn, function, dry_run=False, filter=None, **arguments):
    return call(conn, function, filter=Jsonb(filter), dry_run=dry_run, **arguments)[0]


def states(conn):
    return dict(conn.execute("select id, state from rota.jobs order by id").fetchall())


def test_what_a_filter_asks_for_is_cancelled_and_nothing_else(conn):
    wanted = [enqueue(conn, queue="old"), enqueue(conn, queue="old", run_at=LATER)]
    running = enqueue(conn, queue="busy")
    held = claimed(conn, "busy")
    other = enqueue(conn)

    told = bulk(conn, "cancel_jobs", filter={"queue": "old"}, reason="enough")
    asked = bulk(conn, "cancel_jobs", filter={"queue": "busy"}, reason="stop")

    assert told == {"matched": 2, "changed": 2, "more": False, "job_ids": wanted}
    assert asked["job_ids"] == [running]
    assert states(conn) == {
        **dict.fromkeys(wanted, "CANCELLED"),
        running: "RUNNING",
        other: "SCHEDULED",
    }
    assert job(conn, wanted[0])["cancel_reason"] == "enough"
    assert call(conn, "heartbeat_job", **held)[0]["cancel_requested"] is True


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"task": "a"}, "ab"),
        ({"queue": "q"}, "bc"),
        ({"task": "a", "queue": "q"}, "b"),
        ({"unique_key": "k"}, "c"),
        ({"key": "acme"}, "cd"),
        ({"key": "acme", "queue": "q"}, "c"),
        ({"key": "acm"}, ""),
        ({"state": "SCHEDULED"}, "abcd"),
        ({"state": ["SCHEDULED", "RUNNING"]}, "abcd"),
        ({"state": "RUNNING"}, ""),
        ({"run_at_from": "2100-01-01T00:00:00Z"}, "d"),
        ({"run_at_before": "2100-01-01T00:00:00Z", "queue": "default"}, "a"),
        ({"run_at_before": "2100-01-01T01:00:01+01:00"}, "abcd"),
        ({"schedule_type": "INTERVAL"}, "s"),
        ({"schedule_type": "CRON"}, ""),
        ({"ids": []}, ""),
    ],
)
def test_each_key_of_a_filter_narrows_it(conn, filter, expected):
    ids = {
        "a": enqueue(conn, task="a"),
        "b": enqueue(conn, task="a", queue="q"),
        "c": enqueue(conn, queue="q", unique_key="k", key="acme"),
        "d": enqueue(conn, run_at=LATER, key="acme"),
        "s": call(conn, "schedule_job", task="s", every=HOUR, name="s")[0]["job_id"],
    }

    told = bulk(conn, "cancel_jobs", filter=filter)

    assert told["job_ids"] == [ids[name] for name in expected]
    gone = {job_id for job_id, state in states(conn).items() if state == "CANCELLED"}
    assert gone == set(told["job_ids"])


def test_ids_name_recurring_jobs_too(conn):
    one = enqueue(conn)
    schedule = call(conn, "schedule_job", task="s", every=HOUR, name="s")[0]["job_id"]

    told = bulk(conn, "cancel_jobs", filter={"ids": [schedule, one, one, 2**62]})
    back = bulk(conn, "retry_jobs", filter={"ids": [schedule, one]})

    assert told["job_ids"] == back["job_ids"] == [one, schedule]
    assert states(conn) == {one: "SCHEDULED", schedule: "SCHEDULED"}


def test_a_dry_run_is_the_default_and_changes_and_records_and_locks_nothing(conn, connect):
    ids = [enqueue(conn), enqueue(conn), failed(conn)]
    before = conn.execute("select * from rota.jobs order by id").fetchall()
    other = connect(autocommit=False)
    other.execute("select from rota.live_jobs for update")
    other.execute("select from rota.finished_jobs for update")
    conn.execute("set lock_timeout = '1ms'")

    (cancel,) = call(conn, "cancel_jobs", filter=Jsonb({"queue": "default"}))
    (retry,) = call(conn, "retry_jobs", filter=Jsonb({"state": "FAILED"}))

    assert cancel == {"matched": 2, "changed": 0, "more": False, "job_ids": ids[:2]}
    assert retry == {"matched": 1, "changed": 0, "more": False, "job_ids": ids[2:]}
    assert conn.execute("select * from rota.jobs order by id").fetchall() == before
    assert conn.execute("select function from rota.actions").fetchall() == []
    other.rollback()


@pytest.mark.parametrize("function", ["cancel_jobs", "retry_jobs"])
def test_no_more_are_changed_than_was_said_and_calls_come_to_an_end(conn, function):
    make = enqueue if function == "cancel_jobs" else cancelled
    ids = [make(conn) for _ in range(7)]

    told = []
    while not told or told[-1]["changed"]:
        told.append(bulk(conn, function, filter={"task": "t"}, max_jobs=3))

    assert [one["changed"] for one in told] == [3, 3, 1, 0]
    assert [one["more"] for one in told] == [True, True, False, False]
    assert [job_id for one in told for job_id in one["job_ids"]] == ids


def test_jobs_that_were_asked_to_end_already_are_not_met_again(conn):
    enqueue(conn)
    claimed(conn, "default")

    assert bulk(conn, "cancel_jobs", filter={"state": "RUNNING"})["changed"] == 1
    assert bulk(conn, "cancel_jobs", filter={"state": "RUNNING"})["matched"] == 0


def test_failed_and_cancelled_jobs_come_back_with_all_their_attempts(conn):
    wanted = [failed(conn), cancelled(conn)]
    held = enqueue(conn), claimed(conn, "default")
    call(conn, "finish_job", **held[1])

    told = bulk(conn, "retry_jobs", filter={"task": "t"})

    assert told["job_ids"] == wanted
    assert states(conn) == {**dict.fromkeys(wanted, "SCHEDULED"), held[0]: "COMPLETED"}
    assert {job(conn, job_id)["run"] for job_id in wanted} == {2}
    assert call(conn, "claim_next_job", queues=["failing"])[0]["id"] == wanted[0]


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"state": "FAILED"}, "f"),
        ({"state": ["CANCELLED"]}, "c"),
        ({"key": "acme"}, "c"),
        ({"key": "acme", "state": "FAILED"}, ""),
        ({"finished_at_from": "2100-01-01T00:00:00Z"}, ""),
        ({"finished_at_before": "2100-01-01T00:00:00Z"}, "fc"),
        ({"finished_at_from": "2000-01-01T00:00:00Z", "queue": "failing"}, "f"),
    ],
)
def test_what_has_ended_is_found_by_how_and_when(conn, filter, expected):
    ids = {"f": failed(conn, key="b"), "c": cancelled(conn, key="acme")}

    assert bulk(conn, "retry_jobs", filter=filter)["job_ids"] == [ids[name] for name in expected]


def test_of_jobs_with_one_key_one_comes_back(conn):
    failed(conn, unique_key="k")
    failed(conn, unique_key="k")
    other = failed(conn, unique_key="other")

    told = bulk(conn, "retry_jobs", filter={"state": "FAILED"})

    assert (told["matched"], told["changed"]) == (3, 2)
    assert other in told["job_ids"]
    assert bulk(conn, "retry_jobs", filter={"state": "FAILED"})["matched"] == 0
    assert sorted(states(conn).values()) == ["FAILED", "SCHEDULED", "SCHEDULED"]


def test_a_job_whose_key_is_held_does_not_stop_those_behind_it(conn):
    failed(conn, unique_key="k")
    enqueue(conn, queue="failing", unique_key="k", run_at=LATER)
    other = failed(conn)

    told = bulk(conn, "retry_jobs", filter={"state": "FAILED"}, max_jobs=1)

    assert told == {"matched": 1, "changed": 1, "more": False, "job_ids": [other]}


@pytest.mark.parametrize(
    "filter",
    [
        None,
        {},
        [],
        "queue",
        {"que": "q"},
        {"queue": None},
        {"queue": 5},
        {"key": None},
        {"key": ["acme"]},
        {"state": "COMPLETED"},
        {"state": []},
        {"state": [None]},
        {"state": 5},
        {"schedule_type": "DAILY"},
        {"ids": "7"},
        {"ids": ["seven"]},
        {"ids": [1.5]},
        {"ids": [None]},
        {"ids": [2**63]},
        {"ids": list(range(10_001))},
        {"run_at_from": "soon"},
        {"run_at_from": 5},
        {"queue": "q", "worker": "w"},
    ],
    ids=lambda filter: str(filter)[:40],
)
@pytest.mark.parametrize("function", ["cancel_jobs", "retry_jobs"])
def test_a_filter_that_is_not_quite_one_is_refused(conn, function, filter):
    enqueue(conn)
    failed(conn)

    with sqlstate("RTV01"):
        bulk(conn, function, filter=filter)

    assert sorted(states(conn).values()) == ["FAILED", "SCHEDULED"]


@pytest.mark.parametrize("style", ["German, DMY", "SQL, MDY"])
def test_times_in_a_filter_are_read_alike_in_every_session(conn, style):
    enqueue(conn, run_at=datetime(2030, 1, 2, tzinfo=UTC))
    conn.execute("select set_config('datestyle', %s, false)", [style])

    assert bulk(conn, "cancel_jobs", True, {"run_at_from": "2030-01-02T00:00:00Z"})["matched"] == 1
    assert (
        bulk(conn, "cancel_jobs", True, {"run_at_before": "2030-01-02T00:00:00Z"})["matched"] == 0
    )


def test_a_thousand_ids_are_told_of_more(conn):
    conn.execute(
        "select rota.enqueue_many('t', (select jsonb_agg(1) from generate_series(1, 1500)))"
    )

    told = bulk(conn, "cancel_jobs", filter={"task": "t"}, max_jobs=10_000)

    assert (told["matched"], told["changed"], len(told["job_ids"])) == (1500, 1500, 1000)
