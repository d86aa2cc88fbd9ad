"""Each step of a job's life changes the columns that it must change, and no other.

Whole rows of the views are compared, before and after, so nothing that is dropped, kept too long or
mixed up goes unnoticed, in whatever column. One that is added later is compared like the others,
and has to get a value here (test_no_column_is_left_without_a_value).
"""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.functions.views import job

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
LONG_AGO = datetime(2020, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
EVERYTHING = {
    "task": "work",
    "payload": Jsonb({"number": 1}),
    "queue": "mail",
    "run_at": LONG_AGO,
    "priority": 7,
    "max_retries": 4,
    "timeout": timedelta(seconds=9),
    "unique_key": "the key",
    "headers": Jsonb({"traceparent": "of the enqueue"}),
    "key": "the tenant",
}
NOBODY = {"worker": None, "lease_until": None, "started_at": None}
SCHEDULE = {
    "task": "tick",
    "payload": Jsonb({"number": 2}),
    "every": 2 * HOUR,
    "time_zone": "Europe/Berlin",
    "starts_at": datetime(2030, 1, 7, tzinfo=UTC),
    "name": "the name",
    "misfire": "all",
    "queue": "mail",
    "priority": 7,
    "max_retries": 4,
    "timeout": timedelta(seconds=9),
    "ends_at": datetime(2040, 1, 7, tzinfo=UTC),
    "max_runs": 50,
    "fixed_delay": True,
    "jitter": MINUTE,
    "misfire_cap": 33,
    "max_lateness": 5 * HOUR,
    "overlap": "catch_up",
    "headers": Jsonb({"traceparent": "of the schedule"}),
    "key": "the tenant",
}
OTHER_SCHEDULE = {
    "task": "tock",
    "payload": Jsonb({"number": 3}),
    "cron": "15 * * * *",
    "time_zone": "Asia/Tokyo",
    "starts_at": datetime(2031, 1, 7, tzinfo=UTC),
    "name": "the name",
    "misfire": "skip",
    "queue": "post",
    "priority": -7,
    "max_retries": 5,
    "timeout": timedelta(seconds=10),
    "ends_at": datetime(2041, 1, 7, tzinfo=UTC),
    "max_runs": 51,
    "fixed_delay": False,
    "jitter": 2 * MINUTE,
    "misfire_cap": 34,
    "max_lateness": 6 * HOUR,
    "overlap": "coalesce",
    "headers": Jsonb({"baggage": "other"}),
    "key": "another tenant",
}


SEEN = {
    "select * from rota.jobs where queue = 'elsewhere' order by id",
    "select * from rota.schedule_status where queue = 'elsewhere' order by job_id",
    "select * from rota.queue_status where queue = 'elsewhere'",
    "select e.* from rota.executions as e join rota.jobs as j on j.id = e.job_id"
    " where j.queue = 'elsewhere' order by e.job_id, e.run, e.attempt",
}


@pytest.fixture(autouse=True)
def bystanders(conn):
    """Jobs and schedules in all states, of which no test may change anything."""
    elsewhere = {"queue": "elsewhere", "max_retries": 0, "timeout": HOUR}
    call(conn, "configure_queue", queue="elsewhere", max_retries=9, backoff_base=300 * DAY)
    held = []
    for number in range(5):
        call(conn, "enqueue_job", task="other", unique_key=f"other {number}", **elsewhere)
        held += call(conn, "claim_next_job", queues=["elsewhere"], worker="w", lease=30 * DAY)
    leases = [{"job_id": row["id"], "token": row["token"]} for row in held]
    call(conn, "finish_job", **leases[0])
    call(conn, "finish_job", **leases[1], error="other")
    call(conn, "cancel_job", job_id=held[2]["id"], reason="other")
    call(conn, "finish_job", **leases[2])
    call(conn, "cancel_job", job_id=held[3]["id"], reason="other")
    for name in ("runs", "paused", "waits"):
        call(conn, "schedule_job", task="other", every=HOUR, name=name, **elsewhere)
    call(conn, "pause_schedule", name="paused")
    # One a call: a claim of two stops after the first if to settle that one took its time.
    run, waits = [
        call(conn, "claim_next_job", queues=["elsewhere"], lease=30 * DAY)[0] for _ in range(2)
    ]
    call(conn, "finish_job", job_id=waits["id"], token=waits["token"])
    call(conn, "trigger_schedule", name="runs")
    cursor = conn.cursor(row_factory=dict_row)

    def look():
        found = {query: cursor.execute(query).fetchall() for query in SEEN}
        for row in found["select * from rota.queue_status where queue = 'elsewhere'"]:
            row["due"] = row["oldest_due_at"] = None  # as time goes by
        return found

    before = look()
    yield
    assert look() == before
    (told,) = call(conn, "finish_job", job_id=run["id"], token=run["token"])
    assert moment(conn, told["run_at"])  # for it was triggered, and is that still


class Life:
    """One job, and what each step has changed of it."""

    def __init__(self, conn, job_id):
        self.conn = conn
        self.id = job_id
        self.before = job(conn, job_id)
        self.held = {}
        self.values = {column for column, value in self.before.items() if value is not None}

    def changed(self):
        """Return the columns that have changed since the last look, with their new values."""
        after = job(self.conn, self.id)
        assert after.keys() == self.before.keys()
        changed = {name: after[name] for name in after if after[name] != self.before[name]}
        self.before = after
        self.values |= {column for column, value in after.items() if value is not None}
        return changed

    def claim(self, worker="w"):
        (claimed,) = call(
            self.conn, "claim_next_job", queues=["mail", "post"], worker=worker, lease=HOUR
        )
        self.held = {"job_id": claimed["id"], "token": claimed["token"]}
        return claimed

    def attempts(self):
        cursor = self.conn.cursor(row_factory=dict_row)
        return cursor.execute(
            "select * from rota.executions where job_id = %s order by finished_at", [self.id]
        ).fetchall()


def now(conn):
    return conn.execute("select rota._now()").fetchone()[0]


def worn(conn, clock, **arguments):
    """A job that runs for the second time, with a value in each column that such a job can have."""
    (made,) = call(conn, "enqueue_job", **EVERYTHING | arguments)
    life = Life(conn, made["job_id"])
    life.claim("the first worker")
    call(conn, "finish_job", **life.held, error="the first time", retry_in=MINUTE)
    clock.advance(2 * MINUTE)
    life.claim()
    call(conn, "heartbeat_job", **life.held, progress=Jsonb(0.5))
    life.changed()
    return life


def moment(conn, found, least=0.0):
    """Whether a time is the present, or up to so many seconds ago."""
    return abs((now(conn) - found).total_seconds() - least) < 60


def test_a_claim_tells_all_about_the_job_and_charges_it(conn):
    (made,) = call(conn, "enqueue_job", **EVERYTHING)
    life = Life(conn, made["job_id"])

    claimed = life.claim()

    changed = life.changed()
    assert moment(conn, changed.pop("started_at"))
    assert moment(conn, changed.pop("lease_until"), -3600)
    assert changed == {"state": "RUNNING", "attempt": 1, "worker": "w"}
    assert {name: claimed[name] for name in claimed if name in life.before} == {
        name: life.before[name] for name in claimed if name in life.before
    }
    assert set(claimed) - set(life.before) == {"token"}


def test_heartbeats_change_the_lease_and_what_was_reported(conn, clock):
    life = worn(conn, clock)

    (told,) = call(conn, "heartbeat_job", **life.held, lease=2 * HOUR, progress=Jsonb([1]))
    assert life.changed() == {"lease_until": told["lease_until"], "progress": [1]}
    (told,) = call(conn, "heartbeat_job", **life.held, lease=3 * HOUR)
    assert life.changed() == {"lease_until": told["lease_until"]}
    ids, tokens = [life.id], [life.held["token"]]
    (told,) = call(conn, "heartbeat_jobs", job_ids=ids, tokens=tokens, lease=4 * HOUR)
    assert life.changed() == {"lease_until": told["lease_until"]}
    call(conn, "hold_lease", **life.held)
    assert life.changed() == {}


def alone(conn, held, error=None, result=None):
    (told,) = call(conn, "finish_job", **held, error=error, result=result)
    return told["state"]


def in_a_batch(conn, held, error=None, result=None):
    pair = {"job_ids": [held["job_id"]], "tokens": [held["token"]]}
    (told,) = call(conn, "finish_jobs", **pair, errors=[error], results=[result])
    return told["outcome"]


def in_a_mixed_batch(conn, held, error=None, result=None):
    """Beside a pair that holds nothing, so that each of the batch is judged by itself."""
    pairs = {"job_ids": [9999, held["job_id"]], "tokens": [uuid4(), held["token"]]}
    _, told = call(conn, "finish_jobs", **pairs, errors=[None, error], results=[None, result])
    return told["outcome"]


OF_THE_RUN = ("run", "attempt", "worker", "started_at", "scheduled_for")
WAYS = [alone, in_a_batch, in_a_mixed_batch]


@pytest.mark.parametrize("finish", WAYS)
def test_a_success_keeps_all_that_the_job_was_and_adds_its_result(conn, clock, finish):
    life = worn(conn, clock)
    running = life.before

    assert finish(conn, life.held, result=Jsonb({"sum": 3})) == "COMPLETED"

    changed = life.changed()
    finished_at = changed.pop("finished_at")
    assert moment(conn, finished_at)
    assert changed == {"state": "COMPLETED", "result": {"sum": 3}, "lease_until": None}
    assert life.attempts()[-1] == {
        **{name: running[name] for name in OF_THE_RUN},
        "job_id": life.id,
        "job_state": "COMPLETED",
        "next_run_at": None,
        "outcome": "SUCCEEDED",
        "finished_at": finished_at,
        "error": None,
        "result": {"sum": 3},
    }


@pytest.mark.parametrize("finish", WAYS)
def test_a_failure_keeps_all_but_its_holder_and_waits(conn, clock, finish):
    life = worn(conn, clock)
    running = life.before

    assert finish(conn, life.held, error="boom", result=Jsonb("so far")) == "SCHEDULED"

    changed = life.changed()
    next_run_at = changed.pop("run_at")
    assert timedelta(0) <= next_run_at - now(conn) + MINUTE < 2 * MINUTE
    assert changed == {"state": "SCHEDULED", "last_error": "boom", **NOBODY}
    ended = life.attempts()[-1]
    assert moment(conn, ended.pop("finished_at"))
    assert ended == {
        **{name: running[name] for name in OF_THE_RUN},
        "job_id": life.id,
        "job_state": "SCHEDULED",
        "next_run_at": next_run_at,
        "outcome": "FAILED",
        "error": "boom",
        "result": "so far",
    }


@pytest.mark.parametrize("finish", WAYS)
def test_the_last_failure_keeps_all_that_the_job_was(conn, clock, finish):
    life = worn(conn, clock, max_retries=1)

    assert finish(conn, life.held, error="boom", result=Jsonb("so far")) == "FAILED"

    changed = life.changed()
    assert moment(conn, changed.pop("finished_at"))
    assert changed == {
        "state": "FAILED",
        "last_error": "boom",
        "result": "so far",
        "lease_until": None,
    }


def test_a_lost_lease_changes_what_a_failure_changes(conn, clock):
    life = worn(conn, clock)
    clock.advance(timedelta(hours=1, seconds=1))

    call(conn, "recover_jobs")

    changed = life.changed()
    assert moment(conn, changed.pop("run_at"))
    lost = "the lease of worker w ran out"
    assert changed == {"state": "SCHEDULED", "last_error": lost, **NOBODY}
    ended = life.attempts()[-1]
    assert (ended["outcome"], ended["attempt"], ended["error"]) == ("LOST", 2, lost)


@pytest.mark.parametrize("delay", [timedelta(0), HOUR])
def test_a_release_gives_back_the_attempt_and_nothing_else(conn, clock, delay):
    life = worn(conn, clock)

    (told,) = call(conn, "release_job", **life.held, delay=delay, reason="full")

    changed = life.changed()
    if delay:
        assert moment(conn, told["run_at"], -3600)
        assert changed.pop("run_at") == told["run_at"]
    assert changed == {"state": "SCHEDULED", "attempt": 1, "last_error": "full", **NOBODY}
    ended = life.attempts()[-1]
    assert (ended["outcome"], ended["attempt"], ended["error"]) == ("RELEASED", 2, "full")


def test_a_release_without_a_reason_keeps_the_last_error(conn, clock):
    life = worn(conn, clock)

    call(conn, "release_job", **life.held)

    assert life.changed() == {"state": "SCHEDULED", "attempt": 1, **NOBODY}


def test_a_cancel_of_what_waits_keeps_all_that_the_job_was(conn, clock):
    life = worn(conn, clock)
    call(conn, "finish_job", **life.held, error="boom")
    life.changed()

    call(conn, "cancel_job", job_id=life.id, reason="enough")

    changed = life.changed()
    assert changed["finished_at"] == changed["cancel_requested_at"]
    assert moment(conn, changed.pop("finished_at"))
    assert moment(conn, changed.pop("cancel_requested_at"))
    assert changed == {"state": "CANCELLED", "cancel_reason": "enough"}


@pytest.mark.parametrize("finish", WAYS)
def test_a_cancel_of_what_runs_is_asked_once_and_kept_at_the_end(conn, clock, finish):
    life = worn(conn, clock)

    call(conn, "cancel_job", job_id=life.id, reason="enough")
    changed = life.changed()
    assert moment(conn, changed.pop("cancel_requested_at"))
    assert changed == {"cancel_reason": "enough"}
    call(conn, "cancel_job", job_id=life.id, reason="more than enough")
    assert life.changed() == {}

    assert finish(conn, life.held, error="stopped", result=Jsonb(1)) == "CANCELLED"
    changed = life.changed()
    assert moment(conn, changed.pop("finished_at"))
    assert changed == {
        "state": "CANCELLED",
        "last_error": "stopped",
        "result": 1,
        "lease_until": None,
    }
    ended = life.attempts()[-1]
    assert (ended["outcome"], ended["error"], ended["result"]) == ("CANCELLED", "stopped", 1)


@pytest.mark.parametrize("way", ["failed", "cancelled"])
def test_a_retry_by_an_operator_is_a_new_run_of_the_same_job(conn, clock, way):
    life = worn(conn, clock, max_retries=1)
    if way == "cancelled":
        call(conn, "cancel_job", job_id=life.id, reason="enough")
    call(conn, "finish_job", **life.held, error="boom", result=Jsonb(1))
    life.changed()

    (told,) = call(conn, "retry_job", job_id=life.id)

    assert moment(conn, told["run_at"])
    changed = life.changed()
    assert changed == {
        "state": "SCHEDULED",
        "run_at": told["run_at"],
        "scheduled_for": told["run_at"],
        "run": 2,
        "attempt": 0,
        "progress": None,
        "result": None,
        "worker": None,
        "started_at": None,
        "finished_at": None,
        **({"cancel_requested_at": None, "cancel_reason": None} if way == "cancelled" else {}),
    }


def scheduled(conn, **options):
    (made,) = call(
        conn,
        "schedule_job",
        **{
            "task": "tick",
            "payload": Jsonb(1),
            "every": HOUR,
            "name": "the name",
            "queue": "mail",
            "priority": 7,
            "timeout": timedelta(seconds=9),
            "headers": Jsonb({"traceparent": "of the schedule"}),
            **options,
        },
    )
    return Life(conn, made["job_id"])


def worn_run(conn, clock, **options):
    """A run of a schedule, in its second attempt, with progress and an error of the first."""
    life = scheduled(conn, **options)
    life.claim()
    call(conn, "finish_job", **life.held, error="the first time", retry_in=MINUTE)
    clock.advance(2 * MINUTE)
    life.claim()
    call(conn, "heartbeat_job", **life.held, progress=Jsonb(0.5))
    life.changed()
    return life


@pytest.mark.parametrize("error", [None, "boom"])
@pytest.mark.parametrize("finish", WAYS)
def test_the_next_run_of_a_schedule_begins_anew(conn, clock, finish, error):
    life = worn_run(conn, clock, max_retries=1)
    slot = life.before["scheduled_for"] + HOUR

    assert finish(conn, life.held, error=error, result=Jsonb(1)) == "SCHEDULED"

    assert life.changed() == {
        "state": "SCHEDULED",
        "run_at": slot,
        "scheduled_for": slot,
        "run": 2,
        "attempt": 0,
        "progress": None,
        **({"last_error": error} if error else {}),
        **NOBODY,
    }


def test_a_retry_of_a_run_keeps_its_slot_and_its_progress(conn, clock):
    life = worn_run(conn, clock)

    (told,) = call(conn, "finish_job", **life.held, error="boom", retry_in=MINUTE)

    assert life.changed() == {
        "state": "SCHEDULED",
        "run_at": told["run_at"],
        "last_error": "boom",
        **NOBODY,
    }


def test_the_end_of_a_schedule_keeps_all_that_it_was(conn, clock):
    life = worn_run(conn, clock, max_runs=1)

    (told,) = call(conn, "finish_job", **life.held, result=Jsonb(1))

    assert told["state"] == "COMPLETED"
    changed = life.changed()
    assert moment(conn, changed.pop("finished_at"))
    assert changed == {"state": "COMPLETED", "result": 1, "lease_until": None}


@pytest.mark.parametrize("by", ["delete_schedule", "claim_next_job"])
def test_a_schedule_that_ends_while_it_waits_keeps_all_that_it_was(conn, clock, by):
    life = worn_run(conn, clock, ends_at=now(conn) + 90 * MINUTE, max_lateness=HOUR)
    call(conn, "finish_job", **life.held, error="boom", retry_in=MINUTE)
    life.changed()

    if by == "delete_schedule":
        call(conn, "delete_schedule", name="the name")
        expected = {"state": "CANCELLED", "cancel_reason": "the schedule was deleted"}
    else:
        clock.advance(3 * HOUR)
        assert call(conn, "claim_next_job", queues=["mail"]) == []
        expected = {"state": "COMPLETED"}

    changed = life.changed()
    assert moment(conn, changed.pop("finished_at"))
    assert changed.pop("cancel_requested_at", None) is None or by == "delete_schedule"
    assert changed == expected


def test_a_slot_that_is_stepped_over_begins_a_new_run_if_the_old_one_had_begun(conn, clock):
    life = scheduled(conn)
    clock.advance(2 * HOUR)
    assert life.claim()["scheduled_for"] == life.before["scheduled_for"] + 2 * HOUR
    changed = life.changed()
    assert (changed["attempt"], "run" in changed) == (1, False)

    call(conn, "finish_job", **life.held, error="boom", retry_in=MINUTE)
    clock.advance(3 * HOUR)
    life.changed()
    life.claim()

    changed = life.changed()
    assert (life.before["attempt"], changed["run"]) == (1, 2)


def test_a_pause_and_a_resume_change_when_it_runs_and_nothing_else(conn, clock):
    life = scheduled(conn, starts_at=now(conn) + HOUR)
    slot = life.before["run_at"]

    call(conn, "pause_schedule", name="the name")
    assert life.changed() == {"run_at": None}
    call(conn, "resume_schedule", name="the name")
    assert life.changed() == {"run_at": slot}


def test_a_retry_that_waits_through_a_pause_keeps_its_attempt_and_its_run(conn, clock):
    life = worn_run(conn, clock)
    call(conn, "finish_job", **life.held, error="boom", retry_in=MINUTE)
    call(conn, "pause_schedule", name="the name")
    life.changed()

    (told,) = call(conn, "resume_schedule", name="the name")

    assert moment(conn, told["run_at"])
    assert life.changed() == {"run_at": told["run_at"]}
    assert life.before["attempt"] == 2


def test_a_retry_that_a_slot_overtook_in_a_pause_gives_way_to_a_new_run(conn, clock):
    life = worn_run(conn, clock)
    call(conn, "finish_job", **life.held, error="boom", retry_in=MINUTE)
    call(conn, "pause_schedule", name="the name")
    clock.advance(3 * HOUR)
    life.changed()
    slot = life.before["scheduled_for"] + 4 * HOUR

    call(conn, "resume_schedule", name="the name")

    changed = life.changed()
    assert changed == {"run_at": slot, "scheduled_for": slot, "run": 2, "attempt": 0} | (
        {"progress": None} if "progress" in changed else {}
    )


def test_a_trigger_changes_the_slot_and_nothing_else(conn, clock):
    life = scheduled(conn, starts_at=now(conn) + HOUR)

    (told,) = call(conn, "trigger_schedule", name="the name")

    assert moment(conn, told["run_at"])
    assert life.changed() == {"run_at": told["run_at"], "scheduled_for": told["run_at"]}


def test_a_backfilled_job_is_what_a_run_of_its_schedule_is(conn):
    start = datetime(2030, 1, 7, tzinfo=UTC)
    (made,) = call(conn, "schedule_job", **SCHEDULE | {"fixed_delay": False, "starts_at": start})
    model = job(conn, made["job_id"])

    (one, _) = call(
        conn, "backfill_schedule", name="the name", starts_at=start, ends_at=start + 4 * HOUR
    )

    found = job(conn, one["job_id"])
    differing = {name: found[name] for name in found if found[name] != model[name]}
    assert found["scheduled_for"] == start
    assert moment(conn, differing.pop("run_at"))
    assert moment(conn, found["created_at"])
    differing.pop("created_at", None)
    differing.pop("scheduled_for", None)
    assert differing == {
        "id": one["job_id"],
        "schedule_type": "ONE_TIME",
        "name": None,
        "unique_key": differing["unique_key"],
    }


@pytest.fixture
def shown(conn):
    """Read the one schedule as people see it."""
    cursor = conn.cursor(row_factory=dict_row)
    return lambda: cursor.execute(
        "select * from rota.schedule_status where name = 'the name'"
    ).fetchone()


def plain(arguments):
    """The arguments as the view shows them: JSON as a value, what is left out as null."""
    values = {"every": None, "cron": None} | arguments
    return {name: getattr(value, "obj", value) for name, value in values.items()}


def test_a_schedule_keeps_each_option_and_an_update_changes_each(conn, shown):
    (made,) = call(conn, "schedule_job", **SCHEDULE)
    first = shown()
    assert {name: first[name] for name in plain(SCHEDULE)} == plain(SCHEDULE)
    assert first["schedule_type"] == "INTERVAL"
    assert job(conn, made["job_id"])["timeout"] == SCHEDULE["timeout"]
    assert moment(conn, first["created_at"])

    (again,) = call(conn, "schedule_job", **OTHER_SCHEDULE)

    second = shown()
    assert again == {"job_id": made["job_id"], "created": False}
    assert {name: second[name] for name in plain(OTHER_SCHEDULE)} == plain(OTHER_SCHEDULE)
    assert second["schedule_type"] == "CRON"
    kept = {"job_id", "name", "state", "run", "last_error", "created_at", "paused_at"}
    assert {name: first[name] for name in kept} == {name: second[name] for name in kept}


def test_saving_a_schedule_anew_keeps_a_pause_and_what_is_left_to_the_queue(conn, shown):
    call(conn, "schedule_job", **SCHEDULE)
    call(conn, "pause_schedule", name="the name")
    before = shown()
    assert moment(conn, before["paused_at"])

    left_out = {"max_retries": None, "timeout": None, "starts_at": None}
    call(conn, "schedule_job", **SCHEDULE | left_out)

    assert shown() == before


def test_no_column_is_left_without_a_value(conn, clock):
    """Whoever adds a column to the view of jobs has to give it a value in these tests."""
    one_time = worn(conn, clock)
    call(conn, "cancel_job", job_id=one_time.id, reason="enough")
    call(conn, "finish_job", **one_time.held, result=Jsonb(1))
    one_time.changed()
    recurring = worn_run(conn, clock)

    assert one_time.values | recurring.values == set(one_time.before)
