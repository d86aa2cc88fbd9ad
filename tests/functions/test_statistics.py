"""What waits and runs, and what has ended, is counted aside; exactly, whatever comes between."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.db.gateway import call
from rota.testing import Clock
from tests.concurrency.sessions import Session, forget_cursors
from tests.conftest import SERVER_VERSION, TEST_SETTINGS

SECOND, MINUTE, HOUR, DAY = (
    timedelta(seconds=1),
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
)
NOON = (datetime.now(UTC) + DAY).replace(hour=12, minute=0, second=0, microsecond=0)


@pytest.fixture
def noon(conn, clock):
    """The clock, a little after half past noon, and all minutes before are counted."""
    clock.set(NOON + HOUR / 2 + 16 * SECOND)
    call(conn, "maintain")
    count_all_before(conn, NOON + HOUR / 2)
    return clock


def roll_up(conn, **arguments) -> int:
    return call(conn, "roll_up", **arguments)[0]["roll_up"]


def counted_until(conn):
    return call(conn, "statistics_age")[0]["counted_until"]


def look_everywhere(conn):
    """Have the next claim do so, also where the server's defaults are hostile."""
    forget_cursors(conn)
    conn.execute("set default_transaction_isolation = 'read committed'; set array_nulls = on")


def start(conn, task="work", **arguments) -> dict[str, Any]:
    call(conn, "enqueue_job", task=task, **arguments)
    look_everywhere(conn)
    (job,) = call(conn, "claim_next_job", lease=DAY, queues=[arguments.get("queue", "default")])
    return {"job_id": job["id"], "token": job["token"]}


def finish_one(conn, error=None, retry=True, **arguments) -> int:
    pair = start(conn, **arguments)
    later = HOUR if error and retry else None  # a backoff may be over by the next claim
    call(conn, "finish_job", **pair, error=error, retry=retry, retry_in=later)
    return pair["job_id"]


def rows(conn, query, *arguments):
    return conn.cursor(row_factory=dict_row).execute(query, arguments).fetchall()


def ended(conn):
    """Return how many ended by minute, task and outcome, as far as they are counted."""
    return {
        (row["minute"], row["task"], row["outcome"]): row["ended"]
        for row in rows(conn, "select * from rota.attempt_minutes")
    }


def totals(conn):
    return {
        (row["task"], row["outcome"]): row["ended"]
        for row in rows(conn, "select * from rota.attempt_totals")
    }


def count_up_to(conn, clock, moment):
    """Let it be that time and a bit, and count all minutes before."""
    clock.set(moment + 20 * SECOND)
    count_all_before(conn, moment)


def count_all_before(conn, moment):
    """Count all minutes that are over; one call does so for a second."""
    roll_up(conn)
    while roll_up(conn):
        pass
    assert counted_until(conn) == moment


def healthy(conn):
    return conn.execute("select * from rota.check_invariants()").fetchall() == []


def test_a_minute_is_counted_by_queue_task_and_outcome(conn, noon):
    finish_one(conn)
    finish_one(conn)
    finish_one(conn, queue="mail")
    finish_one(conn, error="x")
    finish_one(conn, error="x", retry=False)
    call(conn, "release_job", **start(conn, task="back"), delay=HOUR)
    pair = start(conn, task="stop")
    call(conn, "cancel_job", job_id=pair["job_id"])
    call(conn, "finish_job", **pair)
    minute = NOON + HOUR / 2

    count_up_to(conn, noon, minute + MINUTE)

    found = rows(
        conn,
        "select queue, task, outcome, ended, gave_up, firsts, seconds, minute"
        " from rota.attempt_minutes order by 1, 2, 3",
    )
    assert [tuple(row.values()) for row in found] == [
        ("default", "back", "RELEASED", 1, 0, 0, 60, minute),
        ("default", "stop", "CANCELLED", 1, 0, 1, 60, minute),
        ("default", "work", "FAILED", 2, 1, 2, 60, minute),
        ("default", "work", "SUCCEEDED", 2, 0, 2, 60, minute),
        ("mail", "work", "SUCCEEDED", 1, 0, 1, 60, minute),
    ]
    assert conn.execute("select sum(ended) from rota.attempt_totals").fetchone() == (7,)
    assert healthy(conn)


def test_how_long_attempts_ran_and_first_ones_had_waited_is_told(conn, noon):
    call(conn, "enqueue_job", task="work", max_retries=1)
    noon.advance(3 * SECOND)
    look_everywhere(conn)
    (job,) = call(conn, "claim_next_job", lease=DAY)
    noon.advance(10 * SECOND)
    call(conn, "finish_job", job_id=job["id"], token=job["token"], error="x", retry_in="0")
    (job,) = call(conn, "claim_next_job", lease=DAY)
    noon.advance(timedelta(milliseconds=500))
    call(conn, "finish_job", job_id=job["id"], token=job["token"])

    count_up_to(conn, noon, NOON + HOUR / 2 + MINUTE)

    failed, succeeded = rows(conn, "select * from rota.attempt_minutes order by outcome")
    assert 10 <= failed["ran_seconds"] < 16
    assert 3 <= failed["waited_seconds"] < 4
    assert failed["ran_histogram"] == [0] * 7 + [1] + [0] * 6  # from 4 to 16 s
    assert failed["waited_histogram"] == [0] * 6 + [1] + [0] * 7  # from 1 to 4 s
    assert 0.5 <= succeeded["ran_seconds"] < 1
    assert succeeded["ran_histogram"] == [0] * 5 + [1] + [0] * 8
    assert (succeeded["firsts"], succeeded["waited_histogram"]) == (0, [0] * 14)
    columns = "ended, ran_seconds, firsts, waited_seconds, ran_histogram, waited_histogram"
    for view in ("attempt_minutes", "attempt_totals"):
        query = f"select {columns} from rota.{view} where outcome = 'FAILED'"  # noqa: S608
        assert conn.execute(query).fetchone() == tuple(failed[name] for name in columns.split(", "))


def test_the_bounds_of_a_histogram_belong_to_the_bucket_below(conn):
    bounds = [0.001 * 4**power for power in range(13)]

    for number, bound in enumerate(bounds, 1):
        query = "select rota._bucket(%s), rota._bucket(%s)"
        assert conn.execute(query, [bound, bound * 1.01]).fetchone() == (number, number + 1)
    assert conn.execute("select rota._bucket(0), rota._bucket(null)").fetchone() == (1, None)


def test_a_minute_is_not_counted_before_it_is_over(conn, noon):
    finish_one(conn)
    noon.set(NOON + HOUR / 2 + MINUTE + 10 * SECOND)

    assert [roll_up(conn) for _ in range(3)] == [0, 0, 0]
    noon.set(NOON + HOUR / 2 + MINUTE + 15 * SECOND)
    assert [roll_up(conn) for _ in range(3)] == [0, 1, 0]
    assert sum(ended(conn).values()) == 1


def test_a_job_that_is_retried_before_it_was_counted_is_counted_under_its_names(conn, noon):
    job_id = finish_one(conn, error="x", retry=False, task="t", queue="mail")
    call(conn, "retry_job", job_id=job_id)
    noon.advance(MINUTE)
    (job,) = call(conn, "claim_next_job", queues=["mail"], lease=DAY)
    call(conn, "finish_job", job_id=job["id"], token=job["token"], error="x", retry=False)
    query = "select queue, task, ended from rota.attempt_minutes"

    count_up_to(conn, noon, NOON + HOUR / 2 + MINUTE)
    assert conn.execute(query).fetchall() == [("mail", "t", 1)]
    count_up_to(conn, noon, NOON + HOUR / 2 + 2 * MINUTE)
    assert conn.execute(query).fetchall() == [("mail", "t", 1)] * 2


def test_a_finish_that_commits_late_holds_its_minute_up_and_is_counted(connect, conn, noon):
    late = connect(autocommit=False)
    finish_one(conn)
    call(late, "finish_job", **start(conn))
    noon.set(NOON + HOUR / 2 + 3 * MINUTE + 20 * SECOND)

    assert [roll_up(conn) for _ in range(4)] == [0, 0, 0, 0]
    assert counted_until(conn) <= NOON + HOUR / 2

    late.commit()
    assert roll_up(conn) == 3
    assert ended(conn) == {(NOON + HOUR / 2, "work", "SUCCEEDED"): 2}
    assert healthy(conn)


def test_a_finish_that_read_the_clock_and_waits_for_its_row_is_waited_for(connect, noon):
    """It has no id yet, so no id tells of it; what it has opened does."""
    conn, holder, late = connect(), connect(autocommit=False), Session(connect(), connect())
    pair = start(conn)
    holder.execute("select from rota.live_jobs for update")
    late.begin()
    finish = late.start("finish_job", **pair)
    assert finish.waits()
    noon.set(NOON + HOUR / 2 + MINUTE + 20 * SECOND)

    assert [roll_up(conn) for _ in range(2)] == [0, 0]
    holder.rollback()  # which had an id, as the finish has now
    finish.answer()
    assert [roll_up(conn) for _ in range(3)] == [0, 0, 0]

    late.commit()
    late.close()
    assert roll_up(conn) == 1
    assert ended(conn) == {(NOON + HOUR / 2, "work", "SUCCEEDED"): 1}
    assert healthy(conn)


def test_a_finish_that_is_rolled_back_is_not_counted(connect, conn, noon):
    late = connect(autocommit=False)
    call(late, "finish_job", **start(conn))
    noon.set(NOON + HOUR / 2 + MINUTE + 20 * SECOND)
    roll_up(conn)
    late.rollback()

    assert roll_up(conn) == 1
    assert ended(conn) == {}


def test_who_only_reads_or_tidies_or_came_later_holds_nothing_up(connect, conn, noon):
    finish_one(conn)
    reader, vacuum = connect(autocommit=False), connect(autocommit=False)
    vacuum.execute("lock table rota.live_jobs in share update exclusive mode")
    reader.execute("select count(*) from rota.jobs")
    noon.set(NOON + HOUR / 2 + MINUTE + 20 * SECOND)
    roll_up(conn)
    later = connect(autocommit=False)
    call(later, "finish_job", **start(conn))

    assert roll_up(conn) == 1
    later.commit()
    count_up_to(conn, noon, NOON + HOUR / 2 + 2 * MINUTE)
    assert sum(ended(conn).values()) == 2


def test_of_two_that_roll_up_at_once_one_does_it_and_the_other_does_not_wait(connect, conn, noon):
    first = connect(autocommit=False)
    finish_one(conn)
    noon.set(NOON + HOUR / 2 + MINUTE + 20 * SECOND)
    roll_up(conn)
    assert roll_up(first) == 1
    conn.execute("set lock_timeout = '1ms'")

    assert roll_up(conn) == 0
    first.rollback()  # as if it had died
    assert ended(conn) == totals(conn) == {}
    assert [roll_up(conn), roll_up(conn)] == [1, 0]
    assert totals(conn) == {("work", "SUCCEEDED"): 1}


def test_calls_within_one_transaction_count_nothing_of_its_own_time(connect, conn, noon):
    one = connect(autocommit=False)
    call(one, "finish_job", **start(conn))
    noon.set(NOON + HOUR / 2 + MINUTE + 20 * SECOND)

    assert [roll_up(one) for _ in range(3)] == [0, 0, 0]
    one.commit()
    assert roll_up(one) == 1
    one.commit()
    assert sum(ended(conn).values()) == 1


def test_a_clock_that_is_put_back_has_its_minutes_counted_anew(conn, noon):
    finish_one(conn)
    count_up_to(conn, noon, NOON + HOUR / 2 + 10 * MINUTE)
    noon.set(NOON + HOUR / 2 + 30 * SECOND)
    finish_one(conn)
    assert healthy(conn)
    assert counted_until(conn) == NOON - HOUR

    roll_up(conn)
    noon.set(NOON + HOUR / 2 + 10 * MINUTE)
    assert healthy(conn)
    count_up_to(conn, noon, NOON + HOUR / 2 + 10 * MINUTE)

    assert ended(conn) == {(NOON + HOUR / 2, "work", "SUCCEEDED"): 2}
    assert totals(conn) == {("work", "SUCCEEDED"): 2}
    assert healthy(conn)


def test_a_clock_that_is_put_back_while_minutes_are_waited_for_has_them_waited_for_anew(
    connect, conn, noon
):
    before, after = connect(autocommit=False), connect(autocommit=False)
    call(before, "finish_job", **start(conn))
    noon.set(NOON + HOUR / 2 + 3 * MINUTE + 20 * SECOND)
    roll_up(conn)
    noon.set(NOON + HOUR / 2 + 20 * SECOND)
    roll_up(conn)
    call(after, "finish_job", **start(conn))
    noon.set(NOON + HOUR / 2 + 3 * MINUTE + 20 * SECOND)
    before.commit()

    assert [roll_up(conn) for _ in range(3)] == [0, 0, 0]
    after.commit()
    assert roll_up(conn) == 3
    assert totals(conn) == {("work", "SUCCEEDED"): 2}
    assert healthy(conn)


def test_a_row_of_the_chore_from_another_server_or_none_holds_nothing_up(conn, noon):
    finish_one(conn)
    noon.set(NOON + HOUR / 2 + MINUTE + 20 * SECOND)
    roll_up(conn)
    conn.execute("update rota.chores set xid = '99999999999' where chore = 'roll_up'")
    assert [roll_up(conn), roll_up(conn)] == [0, 1]

    conn.execute("delete from rota.chores")
    count_up_to(conn, noon, NOON + HOUR / 2 + 2 * MINUTE)
    assert totals(conn) == {("work", "SUCCEEDED"): 1}
    assert healthy(conn)


def test_a_call_counts_no_more_minutes_than_it_was_asked_for(conn, noon):
    noon.set(NOON + HOUR / 2 + 9 * MINUTE + 20 * SECOND)
    roll_up(conn)

    assert [roll_up(conn, max_minutes=4) for _ in range(4)] == [4, 4, 1, 0]


@pytest.mark.parametrize("damage", ["ended = ended + 1", "gave_up = 1", "outcome = 'LOST'"])
def test_a_recount_finds_a_minute_that_is_wrong(conn, noon, damage):
    finish_one(conn)
    count_up_to(conn, noon, NOON + HOUR / 2 + MINUTE)
    with conn.transaction(force_rollback=True):
        conn.execute(f"update rota.minutes set {damage}")  # noqa: S608
        found = conn.execute("select distinct invariant from rota.check_invariants()").fetchall()
    assert ("S9: the minutes are a recount of what ended",) in found


def test_old_minutes_become_hours_and_are_kept_as_long_as_history(conn, noon):
    for minute in (0, 1):
        noon.set(NOON + HOUR / 2 + minute * MINUTE)
        finish_one(conn)
        call(conn, "take_census", older_than=timedelta(0))
        finish_one(conn, error="x", retry=False)
    call(conn, "enqueue_job", task="waits", run_at="2090-01-01")
    call(conn, "take_census", older_than=timedelta(0), force=True)
    count_up_to(conn, noon, NOON + HOUR)
    in_minutes = totals(conn)

    noon.set(NOON + 9 * DAY)
    call(conn, "maintain")
    call(conn, "maintain")

    query = "select minute, seconds, outcome, ended, gave_up, ran_histogram[14] from rota.minutes"
    assert conn.execute(query + " order by outcome").fetchall() == [
        (NOON, 3600, "FAILED", 2, 2, 0),
        (NOON, 3600, "SUCCEEDED", 2, 0, 0),
    ]
    assert healthy(conn)
    assert totals(conn) == in_minutes

    call(conn, "configure_retention", retention=7 * DAY)
    noon.set(NOON + 30 * DAY)
    for _ in range(3):
        call(conn, "maintain")
    assert conn.execute("select from rota.finished_jobs").fetchall() == []
    assert conn.execute(query + " order by outcome").rowcount == 2
    assert healthy(conn)

    noon.set(NOON + 58 * DAY)
    call(conn, "maintain")
    assert ended(conn) == {}
    assert conn.execute("select from rota.depths where minute < %s", [NOON + DAY]).fetchall() == []
    assert totals(conn) == in_minutes
    assert healthy(conn)


def test_the_depths_of_an_hour_become_its_most(conn, noon):
    call(conn, "enqueue_job", task="a")
    for more in (2, 0):
        call(conn, "enqueue_many", task="a", payloads=Jsonb([1] * more))
        call(conn, "take_census", older_than=timedelta(0), force=True)
        noon.advance(5 * MINUTE)
        conn.execute("delete from rota.live_jobs where id > 1")
    found = "select minute, seconds, scheduled, due from rota.queue_depths order by minute"
    assert conn.execute(found).fetchall() == [
        (NOON + HOUR / 2, 60, 3, 3),
        (NOON + HOUR / 2 + 5 * MINUTE, 60, 1, 1),
    ]

    noon.advance(9 * DAY)
    call(conn, "maintain")

    assert conn.execute(found).fetchall() == [(NOON, 3600, 3, 3)]


def census(conn):
    return {row.pop("task"): row for row in rows(conn, "select * from rota.queue_census")}


def test_a_finish_does_not_touch_the_index_by_time(conn):
    """Neither in a new week nor later: PostgreSQL describes pages once they are full."""

    def indexes():
        conn.execute("checkpoint")
        return conn.execute(
            """
            select c.relname, md5(pg_read_binary_file(pg_relation_filepath(c.oid)))
            from pg_class as c
            join pg_am as m on m.oid = c.relam
            where c.relnamespace = 'rota'::regnamespace and m.amname = 'brin' and c.relkind = 'i'
            """
        ).fetchall()

    before = indexes()

    for error in (None, "x"):
        call(conn, "finish_job", **start(conn), error=error, retry=False)

    assert len(before) >= 4
    assert indexes() == before


def test_a_census_counts_what_waits_and_runs(conn, noon):
    start(conn, task="runs", timeout=MINUTE)
    call(conn, "finish_job", **start(conn, task="failed"), error="x", retry_in=HOUR)
    call(conn, "enqueue_job", task="later", run_at=NOON + DAY)
    call(conn, "enqueue_job", task="due", run_at=NOON, priority=3)
    nothing = {"lost": 0, "lost_since": None, "overdue": 0, "overdue_since": None, "running": 0}
    nothing |= {"oldest_due_at": None, "no_room": 0, "oldest_with_room_at": None, "waiting": 0}
    waits = nothing | {"queue": "default", "priority": 0, "scheduled": 1, "due": 0, "retrying": 0}

    assert call(conn, "take_census") == [{"take_census": True}]
    found = census(conn)
    assert found["later"] == waits
    assert found["failed"] == waits | {"retrying": 1}
    is_due = {"due": 1, "oldest_due_at": NOON, "oldest_with_room_at": NOON}
    assert found["due"] == waits | is_due | {"priority": 3}
    assert found["runs"] == waits | {"scheduled": 0, "running": 1}
    assert rows(conn, "select * from rota.worker_census")[0]["longest_running"] == [1]

    noon.advance(2 * DAY)
    conn.execute("delete from rota.live_jobs where task = 'later'")
    assert call(conn, "take_census") == [{"take_census": True}]
    lost = census(conn)["runs"]
    assert (lost["lost"], lost["overdue"]) == (1, 1)
    (began,) = conn.execute("select started_at from rota.jobs where task = 'runs'").fetchone()
    assert lost["overdue_since"] == began + MINUTE
    assert lost["lost_since"] == NOON + HOUR / 2 + DAY or lost["lost_since"] < NOON + 2 * DAY
    assert "later" not in census(conn)


def test_what_waits_for_other_jobs_is_counted_as_that_and_as_nothing_else(conn, noon):
    def counted():
        assert call(conn, "take_census") == [{"take_census": True}]
        (status,) = rows(conn, "select * from rota.queue_status where queue = 'default'")
        columns = ("waiting", "scheduled", "due", "retrying", "running")
        of_census = {column: census(conn)["child"][column] for column in columns}
        assert census(conn)["child"]["oldest_due_at"] is None
        assert status["waiting"] == of_census["waiting"]
        return of_census, status["scheduled"]

    child = {"task": "child", "depends_on": ["parent"]}
    jobs = [{"task": "work", "node": "parent"}, child, child]
    nothing = {"scheduled": 0, "due": 0, "retrying": 0, "running": 0}
    call(conn, "enqueue_workflow", jobs=Jsonb(jobs))
    noon.advance(MINUTE)

    assert counted() == (nothing | {"waiting": 2}, 1)

    look_everywhere(conn)
    (job,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=job["id"], token=job["token"])
    noon.advance(HOUR)
    assert call(conn, "take_census") == [{"take_census": True}]
    freed = census(conn)["child"]
    assert (freed["waiting"], freed["scheduled"], freed["due"]) == (0, 2, 2)


def test_a_census_tells_due_jobs_that_wait_for_room_from_those_that_could_start(conn, noon):
    def look():
        call(conn, "claim_next_job", queues=["keys", "full", "window"], max_jobs=10)
        noon.advance(10 * MINUTE)
        assert call(conn, "take_census") == [{"take_census": True}]
        return {
            q: (c["due"], c["no_room"], c["oldest_with_room_at"]) for q, c in by_queue().items()
        }

    def by_queue():
        return {row["queue"]: row for row in rows(conn, "select * from rota.queue_census")}

    call(conn, "configure_queue", queue="keys", key_max_starts=1, key_starts_period=HOUR)
    call(conn, "configure_queue", queue="full", max_running=1)
    call(conn, "configure_queue", queue="window", max_starts=1, starts_period=HOUR)
    for queue in ("keys", "full", "window"):
        for minutes in (0, 1, 2):
            run_at = NOON - HOUR + minutes * MINUTE
            call(conn, "enqueue_job", task="t", queue=queue, key="acme", run_at=run_at)

    assert look() == dict.fromkeys(("keys", "full", "window"), (2, 2, None))

    for queue in ("keys", "full"):
        call(conn, "enqueue_job", task="t", queue=queue, key="globex", run_at=NOON + DAY)
    noon.advance(DAY)
    assert call(conn, "take_census") == [{"take_census": True}]
    # Nobody has claimed since the windows opened, and the queue is full still.
    found = {q: (c["due"], c["no_room"], c["oldest_with_room_at"]) for q, c in by_queue().items()}
    assert found == {
        "keys": (3, 0, NOON - HOUR + MINUTE),
        "full": (3, 3, None),
        "window": (2, 0, NOON - HOUR + MINUTE),
    }


def test_a_census_of_nothing_new_writes_nothing_but_when_it_was_taken(conn, noon):
    start(conn)
    query = "select (select array_agg(xmin::text) from rota.{}), rota.statistics_age()"
    call(conn, "take_census")
    before = [conn.execute(query.format(t)).fetchone() for t in ("census", "census_workers")]
    noon.advance(HOUR / 2)

    assert call(conn, "take_census") == [{"take_census": True}]

    after = [conn.execute(query.format(t)).fetchone() for t in ("census", "census_workers")]
    assert [row[0] for row in before] == [row[0] for row in after]
    assert before[0][1] != after[0][1]


def test_a_census_is_taken_no_oftener_than_a_hundred_times_what_it_takes(conn, noon):
    def taken(seconds, **arguments):
        conn.execute(
            "update rota.chores set ran_at = rota._now() - make_interval(secs => %s),"
            " took = '1 s' where chore = 'take_census'",
            [seconds],
        )
        return call(conn, "take_census", **arguments)[0]["take_census"]

    assert [taken(90), taken(101)] == [False, True]
    assert [taken(9, force=True), taken(11, force=True)] == [False, True]
    assert [taken(101, older_than=HOUR), taken(3601, older_than=HOUR)] == [False, True]
    assert taken(-HOUR.total_seconds())  # the clock was put back


def test_of_two_who_take_a_census_one_does_and_the_other_does_not_wait(connect, noon):
    one, other = connect(autocommit=False), connect()
    start(other)
    assert call(one, "take_census") == [{"take_census": True}]
    other.execute("set lock_timeout = '1ms'")

    assert call(other, "take_census") == [{"take_census": False}]
    one.rollback()
    assert call(other, "take_census") == [{"take_census": True}]


def test_old_and_new_weeks_of_history_are_indexed_by_time(conn, noon):
    noon.advance(21 * DAY)
    call(conn, "maintain")
    query = """
        select i.inhrelid::regclass::text
        from pg_inherits as i
        where i.inhparent = any('{rota.finished_jobs, rota.attempts}'::regclass[])
            and not exists (
                select
                from pg_index as x
                join pg_class as c on c.oid = x.indexrelid
                join pg_am as m on m.oid = c.relam
                where x.indrelid = i.inhrelid and m.amname = 'brin' and x.indisvalid
            )
    """

    assert conn.execute(query).fetchall() == []


def test_a_finish_writes_no_byte_more_for_history_that_is_found_by_time(conn, noon):
    """The least of some, for whoever else is here writes, too."""
    call(conn, "enqueue_many", task="a", payloads=Jsonb([1] * 1000))

    def written():
        look_everywhere(conn)
        jobs = call(conn, "claim_next_job", max_jobs=100)
        pairs = {"job_ids": [job["id"] for job in jobs], "tokens": [job["token"] for job in jobs]}
        where = "select pg_current_wal_insert_lsn() - '0/0'"
        (before,) = conn.execute(where).fetchone()
        call(conn, "finish_jobs", **pairs)
        (after,) = conn.execute(where).fetchone()
        return after - before

    written()
    with_it = min(written() for _ in range(4))
    conn.execute("drop index rota.finished_jobs_times, rota.times_of_attempts")
    without = min(written() for _ in range(4))

    assert with_it <= without * Decimal("1.01")


def test_a_finish_that_was_prepared_is_waited_for(server_folder):
    allowed = TEST_SETTINGS | {"max_prepared_transactions": "2"}
    with Cluster(server_folder / "pg", SERVER_VERSION, allowed) as server:
        deploy(server.url(), report=lambda line: None)
        with psycopg.connect(server.url(), autocommit=True) as conn:
            clock = Clock(conn)
            clock.set(NOON + 16 * SECOND)
            roll_up(conn)
            roll_up(conn)
            with psycopg.connect(server.url()) as late:
                call(late, "finish_job", **start(conn))
                late.execute("prepare transaction 'late'")
            clock.set(NOON + MINUTE + 20 * SECOND)

            assert [roll_up(conn) for _ in range(3)] == [0, 0, 0]
            conn.execute("commit prepared 'late'")
            assert roll_up(conn) == 1
            assert ended(conn) == {(NOON, "work", "SUCCEEDED"): 1}


def test_minutes_are_found_in_history_by_an_index(connect, conn, noon):
    finish_one(conn)
    finish_one(conn, error="x")
    noon.set(NOON + HOUR / 2 + MINUTE + 20 * SECOND)
    roll_up(conn)
    one = connect(autocommit=False)

    assert roll_up(one) == 1
    looked_through = one.execute(
        """
        select t.relname, t.seq_scan
        from pg_stat_xact_all_tables as t
        where t.relname ~ '^(finished_jobs|attempts|live_jobs)' and t.seq_scan > 0
        """
    ).fetchall()
    one.commit()

    assert looked_through == []
    assert sum(ended(conn).values()) == 2


STEPS = [
    *("succeed", "fail", "give up", "release", "leave open", "commit", "roll back", "retry"),
    *("some seconds", "a minute", "put back", "roll up", "maintain"),
]


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=30))
def test_whatever_happens_the_minutes_are_a_recount(connect, noon, steps):
    conn, late = connect(), []
    for step in steps:
        match step:
            case "succeed":
                finish_one(conn)
            case "fail" | "give up":
                finish_one(conn, error="x", retry=step == "fail")
            case "release":
                call(conn, "release_job", **start(conn))
            case "leave open":
                late.append(connect(autocommit=False))
                call(late[-1], "finish_job", **start(conn), error="x", retry=len(late) % 2 == 0)
            case "commit" | "roll back" if late:
                one = late.pop(0)
                getattr(one, step.replace(" ", ""))()
                one.close()
            case "retry":
                for (job_id,) in conn.execute(
                    "select id from rota.jobs where state = 'FAILED' limit 1"
                ).fetchall():
                    call(conn, "retry_job", job_id=job_id)
            case "some seconds":
                noon.advance(7 * SECOND)
            case "a minute":
                noon.advance(61 * SECOND)
            case "put back":
                noon.advance(-5 * MINUTE)
                roll_up(conn)
            case "roll up":
                roll_up(conn)
            case "maintain":
                call(conn, "maintain")
        assert healthy(conn)
    for one in late:
        one.commit()
        one.close()
    noon.advance(10 * MINUTE)
    while roll_up(conn) + roll_up(conn):
        pass

    until = counted_until(conn)
    assert until > conn.execute("select rota._now() - interval '2 minutes'").fetchone()[0]
    by_minute = """
        select minute, task, outcome, sum(ended)::bigint
        from rota.attempt_minutes where minute < %s group by 1, 2, 3 order by 1, 2, 3
    """
    recount = """
        select date_trunc('minute', e.finished_at, 'UTC'), j.task, e.outcome, count(*)
        from rota.executions as e join rota.jobs as j on j.id = e.job_id
        where e.finished_at < %s group by 1, 2, 3 order by 1, 2, 3
    """
    assert conn.execute(by_minute, [until]).fetchall() == conn.execute(recount, [until]).fetchall()
    assert healthy(conn)
    conn.close()
