"""How long what ended is kept, by outcome and by queue, and what is left where nothing is."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.concurrency.sessions import forget_cursors

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
MONDAY = TODAY + (14 - TODAY.weekday()) * DAY  # in a week that has not begun
FIRST = f"{MONDAY:%Y%m%d}"


@pytest.fixture
def conn(conn):
    conn.execute("set client_min_messages = 'notice'")
    conn.add_notice_handler(lambda n: print(n.severity, n.message_primary, n.context))
    conn.execute("set default_transaction_isolation = 'read committed'")
    return conn


def start(conn, queue="default", **arguments) -> dict[str, Any]:
    (row,) = call(conn, "enqueue_job", task="work", queue=queue, **arguments)
    return claim(conn, row["job_id"], queue)


def claim(conn, job_id, queue="default") -> dict[str, Any]:
    forget_cursors(conn)
    claimed = call(conn, "claim_next_job", queues=[queue], max_jobs=100, lease=30 * DAY)
    return next(
        {"job_id": row["id"], "token": row["token"]} for row in claimed if row["id"] == job_id
    )


def finish_one(conn, queue="default", error=None, **arguments) -> int:
    pair = start(conn, queue, max_retries=0, **arguments)
    call(conn, "finish_job", **pair, error=error)
    return pair["job_id"]


def keep_nothing(conn, queue="default"):
    call(conn, "configure_queue", queue=queue, keep_completed=timedelta(0))
    finish_one(conn, queue)  # so that there is a lane
    call(conn, "maintain")


def ids(conn, view="jobs"):
    column = "id" if view in ("jobs", "receipts", "finished_jobs") else "job_id"
    return {row[0] for row in conn.execute(f"select {column} from rota.{view}")}  # noqa: S608


def parts(conn, parent):
    return {
        row[0].removeprefix(f"{parent}_")
        for row in conn.execute(
            "select c.relname from pg_inherits join pg_class as c on c.oid = inhrelid"
            " where inhparent = %s::regclass",
            [f"rota.{parent}"],
        )
    } - {"default"}


def go_to(conn, clock, moment):
    """Let it be that time; partitions are of the length that was asked for."""
    call(conn, "maintain")
    clock.set(moment)
    call(conn, "maintain")


def healthy(conn):
    return conn.execute("select * from rota.check_invariants()").fetchall() == []


def roll_up(conn, clock):
    """Count all that has ended."""
    clock.advance(timedelta(minutes=2))
    for _ in range(12):
        call(conn, "roll_up")


def counted(conn):
    return {
        tuple(row)
        for row in conn.execute("select queue, task, outcome, ended from rota.attempt_totals")
    }


def step(conn, clock):
    clock.advance(timedelta(seconds=70))
    call(conn, "do_chores")


def thin(conn, clock, steps=40):
    """Take steps until there is nothing more to take out; return how many there were."""
    roll_up(conn, clock)
    for number in range(steps):
        step(conn, clock)
        if conn.execute(
            """
            select from rota.chores
            where chore = 'thin_history' and until >= ran_at + interval '1 minute'
            """
        ).rowcount:
            return number
    raise AssertionError("it does not come to an end")


# --- Nothing is kept of what completes.


def test_of_a_job_that_completes_a_receipt_is_all_that_is_kept(conn):
    keep_nothing(conn)

    job_id = finish_one(conn)

    assert job_id not in ids(conn) | ids(conn, "job_executions")
    assert ids(conn, "receipts") == {job_id}
    assert healthy(conn)


def test_what_does_not_complete_is_kept_all_the_same(conn):
    keep_nothing(conn)

    failed = finish_one(conn, error="x")
    pair = start(conn)
    call(conn, "cancel_job", job_id=pair["job_id"])
    call(conn, "finish_job", **pair)

    assert {failed, pair["job_id"]} <= ids(conn)
    assert ids(conn, "receipts") == set()


def test_a_finish_that_is_repeated_gets_its_answer_for_an_hour(conn, clock):
    keep_nothing(conn)
    pair = start(conn)
    first = call(conn, "finish_job", **pair, result=Jsonb({"a": 1}))
    clock.advance(HOUR)
    for _ in range(3):
        call(conn, "maintain")

    assert call(conn, "finish_job", **pair, result=Jsonb({"a": 1})) == first
    with pytest.raises(psycopg.Error) as other:
        call(conn, "finish_job", **pair, error="x")
    with pytest.raises(psycopg.Error) as late:
        call(conn, "finish_job", job_id=pair["job_id"], token=uuid4())
    with pytest.raises(psycopg.Error) as released:
        call(conn, "release_job", **pair)

    assert [caught.value.sqlstate for caught in (other, late, released)] == [
        "RTC03",
        "RTC02",
        "RTC02",
    ]


def test_receipts_are_dropped_after_two_hours_when_they_are_counted(conn, clock):
    keep_nothing(conn)
    go_to(conn, clock, MONDAY)
    job_id = finish_one(conn)
    clock.set(MONDAY + 2.9 * HOUR)
    call(conn, "maintain")
    assert ids(conn, "receipts") == {job_id}
    clock.set(MONDAY + 3.1 * HOUR)

    roll_up(conn, clock)
    call(conn, "maintain")

    assert ids(conn, "receipts") == set()
    assert ("default", "work", "SUCCEEDED", 2) in counted(conn)
    since = conn.execute("select completed_since from rota.settings").fetchone()
    assert since == (MONDAY + HOUR,)
    assert healthy(conn)


def test_receipts_wait_for_their_count_for_a_day(conn, connect, clock):
    keep_nothing(conn)
    go_to(conn, clock, MONDAY)
    roll_up(conn, clock)
    holds_up = connect(autocommit=False)
    call(holds_up, "enqueue_job", task="open")
    job_id = finish_one(conn)
    clock.set(MONDAY + 23 * HOUR)
    for _ in range(3):
        call(conn, "maintain")
    assert ids(conn, "receipts") == {job_id}

    clock.set(MONDAY + 26 * HOUR)
    call(conn, "maintain")

    assert ids(conn, "receipts") == set()
    holds_up.rollback()


def test_what_left_a_receipt_is_counted_once_with_the_attempts_before_it(conn, clock):
    keep_nothing(conn, "mail")
    roll_up(conn, clock)
    pair = start(conn, "mail")
    call(conn, "finish_job", **pair, error="x", retry_in=timedelta(0))
    pair = claim(conn, pair["job_id"], "mail")
    call(conn, "finish_job", **pair)

    roll_up(conn, clock)
    roll_up(conn, clock)

    assert counted(conn) == {("mail", "work", "SUCCEEDED", 2), ("mail", "work", "FAILED", 1)}
    assert healthy(conn)
    minutes = conn.execute(
        "select sum(firsts) from rota.attempt_minutes where outcome = 'SUCCEEDED'"
    ).fetchone()
    assert minutes == (1,)  # the retry was no first attempt


def test_a_batch_of_all_kinds_gets_every_answer(conn):
    keep_nothing(conn, "mail")
    one, two, failing, cancelled = (start(conn, "mail", max_retries=0) for _ in range(4))
    kept = start(conn)
    call(conn, "cancel_job", job_id=cancelled["job_id"])
    pairs = [one, kept, failing, cancelled, two, one]
    arguments = {
        "job_ids": [pair["job_id"] for pair in pairs],
        "tokens": [pair["token"] for pair in pairs],
        "errors": [None, None, "x", None, None, "another"],
    }

    first = call(conn, "finish_jobs", **arguments)
    again = call(conn, "finish_jobs", **arguments)

    outcomes = ["COMPLETED", "COMPLETED", "FAILED", "CANCELLED", "COMPLETED", "CONFLICT"]
    assert [row["outcome"] for row in first] == [row["outcome"] for row in again] == outcomes
    assert ids(conn, "receipts") == {one["job_id"], two["job_id"]}
    assert {kept["job_id"], failing["job_id"], cancelled["job_id"]} <= ids(conn)
    assert healthy(conn)


def test_a_batch_of_two_queues_keeps_what_one_of_them_keeps(conn):
    keep_nothing(conn, "mail")
    mail, kept = start(conn, "mail"), start(conn)

    call(
        conn,
        "finish_jobs",
        job_ids=[mail["job_id"], kept["job_id"]],
        tokens=[mail["token"], kept["token"]],
        results=[Jsonb(1), Jsonb(2)],
    )

    assert kept["job_id"] in ids(conn)
    assert mail["job_id"] not in ids(conn)
    assert ids(conn, "receipts") == {mail["job_id"]}


def test_jobs_of_a_workflow_are_kept_for_those_that_follow(conn):
    keep_nothing(conn)
    nodes = call(
        conn,
        "enqueue_workflow",
        jobs=Jsonb([{"task": "a", "node": "a"}, {"task": "b", "depends_on": ["a"]}]),
    )
    first, second = (node["job_id"] for node in nodes)

    call(conn, "finish_job", **claim(conn, first), result=Jsonb("of the first"))
    results = call(conn, "parent_results", job_id=second)
    call(conn, "finish_job", **claim(conn, second))

    assert results[0]["result"] == "of the first"
    assert {first, second} <= ids(conn)


def test_a_job_on_which_another_came_to_depend_is_kept(conn):
    keep_nothing(conn)
    parent = start(conn)
    (child,) = call(
        conn,
        "enqueue_workflow",
        jobs=Jsonb([{"task": "b", "depends_on": [parent["job_id"]]}]),
    )

    call(conn, "finish_job", **parent, result=Jsonb(7))

    assert parent["job_id"] in ids(conn)
    assert call(conn, "parent_results", job_id=child["job_id"])[0]["result"] == 7


@pytest.mark.parametrize("others", [0, 1])
def test_a_job_that_is_followed_by_others_is_kept(conn, others):
    keep_nothing(conn)
    pair = start(conn)
    waits = [start(conn)["job_id"] for _ in range(others)]

    call(conn, "finish_job", **pair, next=Jsonb([{"task": "n", "depends_on": waits}]))

    assert pair["job_id"] in ids(conn)


def test_an_id_of_which_nothing_was_kept_is_no_parent(conn):
    keep_nothing(conn)
    gone = finish_one(conn)

    with pytest.raises(psycopg.Error) as caught:
        call(conn, "enqueue_workflow", jobs=Jsonb([{"task": "b", "depends_on": [gone]}]))

    assert caught.value.sqlstate == "RTN01"


def test_explain_job_tells_of_a_job_that_left_a_receipt(conn):
    keep_nothing(conn)

    (reason,) = call(conn, "explain_job", job_id=finish_one(conn))

    assert reason["code"] == "ENDED"
    assert "COMPLETED; its queue keeps no more of it" in reason["reason"]


def test_nothing_is_kept_of_all_queues_but_those_that_say_otherwise(conn):
    call(conn, "configure_retention", keep_completed=timedelta(0))
    call(conn, "configure_queue", queue="kept", keep_completed=DAY)
    for queue in ("default", "kept"):
        finish_one(conn, queue)
    call(conn, "maintain")

    gone, kept = finish_one(conn), finish_one(conn, "kept")

    assert gone not in ids(conn)
    assert kept in ids(conn)


@pytest.mark.parametrize("how", ["queue", "unset", "all"])
def test_what_is_to_be_kept_again_is_kept_from_the_next_attempt_on(conn, how):
    if how == "all":
        call(conn, "configure_retention", keep_completed=timedelta(0))
        finish_one(conn)
        call(conn, "maintain")
    else:
        keep_nothing(conn)
    assert finish_one(conn) not in ids(conn)

    match how:
        case "queue":
            call(conn, "configure_queue", queue="default", keep_completed=DAY)
        case "unset":
            call(conn, "configure_queue", queue="default", unset=["keep_completed"])
        case "all":
            call(conn, "configure_retention", keep_completed=DAY)

    assert finish_one(conn) in ids(conn)


def test_claims_of_what_is_not_kept_stay_in_their_page(conn):
    keep_nothing(conn)
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}] * 200))
    conn.execute("select pg_stat_force_next_flush()")
    query = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'live_jobs'"
    before = conn.execute(query).fetchone()

    call(conn, "claim_next_job", max_jobs=200)

    conn.execute("select pg_stat_force_next_flush()")
    after = conn.execute(query).fetchone()
    assert after[0] - before[0] == after[1] - before[1] == 200


# --- Settings.


@pytest.mark.parametrize(
    ("setting", "span"),
    [
        ("retention", "59 minutes"),
        ("retention", "0"),
        ("keep_completed", "59 minutes"),
        ("keep_completed", "-1 hour"),
        ("keep_completed", "101 years"),
        ("keep_failed", "0"),
        ("keep_failed", "59 minutes"),
    ],
)
@pytest.mark.parametrize("function", ["configure_retention", "configure_queue"])
def test_what_cannot_be_kept_that_long_is_refused(conn, function, setting, span):
    if function == "configure_queue" and setting == "retention":
        return
    queue = {"queue": "mail"} if function == "configure_queue" else {}

    with pytest.raises(psycopg.Error, match=f"{setting} must be .*from 1 hour") as caught:
        call(conn, function, **queue, **{setting: span})

    assert caught.value.sqlstate == "RTV01"


def test_what_is_left_out_of_the_retention_stays_as_it_is(conn):
    call(conn, "configure_retention", retention=30 * DAY, keep_completed=DAY)
    call(conn, "configure_retention", keep_failed=2 * DAY)

    assert conn.execute(
        "select retention, keep_completed, keep_failed from rota.settings"
    ).fetchone() == (30 * DAY, DAY, 2 * DAY)


# --- Partitions of the length that is asked for.


@pytest.mark.parametrize(
    ("settings", "kind", "ahead"),
    [
        ({"retention": 2 * HOUR}, "h", 13),
        ({"retention": 2 * DAY}, "h", 13),
        ({"retention": 3 * DAY}, "d", 8),
        ({"retention": 60 * DAY}, "d", 8),
        ({"retention": 61 * DAY}, "", 5),
        ({"retention": 90 * DAY, "keep_completed": 6 * HOUR}, "d", 8),
        ({"retention": 200 * DAY, "keep_completed": 6 * HOUR}, "", 5),
        ({"retention": 4 * DAY, "keep_completed": 6 * HOUR}, "h", 13),
    ],
    ids=str,
)
def test_partitions_are_as_long_as_what_is_kept_asks_for(conn, clock, settings, kind, ahead):
    call(conn, "configure_retention", **settings)
    clock.set(MONDAY + 1000 * DAY)

    call(conn, "maintain")
    call(conn, "maintain")

    for parent in ("finished_jobs", "attempts"):
        ahead_of = f"{MONDAY + 993 * DAY:%Y%m%d}"
        made = {name for name in parts(conn, parent) if name.strip("dh") > ahead_of}
        assert {name.rstrip("0123456789") for name in made} == {kind}
        assert len(made) == ahead
    finish_one(conn)
    assert conn.execute("select count(*) from rota.finished_jobs_default").fetchone() == (0,)


def test_weeks_that_were_made_ahead_give_way_to_days_and_back(conn, clock):
    def made():
        return {name for name in parts(conn, "finished_jobs") if name.strip("d") >= FIRST}

    clock.set(MONDAY + 2 * DAY)
    call(conn, "maintain")
    job_id = finish_one(conn)
    call(conn, "configure_retention", retention=30 * DAY)

    call(conn, "maintain")

    assert job_id in ids(conn)
    days = {f"d{MONDAY + n * DAY:%Y%m%d}" for n in range(7, 10)}
    assert made() == {FIRST} | days  # what has begun goes on
    clock.set(MONDAY + 9 * DAY)
    call(conn, "maintain")
    days = {f"d{MONDAY + n * DAY:%Y%m%d}" for n in range(7, 17)}
    assert made() == {FIRST} | days

    call(conn, "configure_retention", retention=90 * DAY)
    for _ in range(2):
        call(conn, "maintain")

    days = {f"d{MONDAY + n * DAY:%Y%m%d}" for n in range(7, 10)}
    weeks = {f"{MONDAY + n * 7 * DAY:%Y%m%d}" for n in range(6)}
    assert made() == weeks | days
    clock.set(MONDAY + 10 * DAY)
    finish_one(conn)
    assert conn.execute("select count(*) from rota.finished_jobs_default").fetchone() == (0,)


def test_hours_are_dropped_when_the_retention_has_passed(conn, clock):
    call(conn, "configure_retention", retention=6 * HOUR)
    go_to(conn, clock, MONDAY + 10 * HOUR)
    old = finish_one(conn, error="x")
    roll_up(conn, clock)
    clock.advance(5 * HOUR)
    young = finish_one(conn)
    call(conn, "maintain")
    assert {old, young} <= ids(conn)

    clock.advance(2 * HOUR)
    roll_up(conn, clock)
    call(conn, "maintain")

    assert ids(conn) == {young}
    assert ids(conn, "job_executions") == {young}
    assert ("default", "work", "FAILED", 1) in counted(conn)
    assert healthy(conn)


# --- What runs out before the partition does.


def history(conn, clock, queues=("default",), each=3):
    """Fill a day with what completed and what failed; return both, by queue."""
    go_to(conn, clock, MONDAY)
    made = {
        queue: (
            {finish_one(conn, queue) for _ in range(each)},
            {finish_one(conn, queue, error="x") for _ in range(each)},
        )
        for queue in queues
    }
    roll_up(conn, clock)
    return made


@pytest.mark.parametrize("copies", [True, False])
def test_what_has_run_out_is_taken_out_of_a_partition_that_stays(conn, clock, copies):
    call(conn, "configure_retention", retention=30 * DAY, keep_completed=6 * HOUR)
    [(_, failed)] = history(conn, clock).values()
    if not copies:  # most of what is there stays
        failed |= {finish_one(conn, error="x") for _ in range(20)}
        roll_up(conn, clock)
    clock.set(MONDAY + DAY + 7 * HOUR)
    file = f"select pg_relation_filenode('rota.finished_jobs_d{FIRST}')"
    before = conn.execute(file).fetchone()

    thin(conn, clock)

    assert ids(conn) == ids(conn, "job_executions") == failed
    assert (conn.execute(file).fetchone() != before) == copies
    assert conn.execute("select count(*) from rota.thinned_changes").fetchone() == (0,)
    assert not conn.execute("select from pg_class where relname like '%_thin'").rowcount
    since = conn.execute("select completed_since from rota.settings").fetchone()
    assert since == (MONDAY + DAY,)
    assert healthy(conn)
    (retried,) = call(conn, "retry_job", job_id=min(failed))
    assert retried["state"] == "SCHEDULED"
    assert thin(conn, clock) == 0  # there is nothing more to do


def test_partitions_have_the_checks_of_their_parent_which_no_planner_reads(conn, clock):
    call(conn, "configure_retention", retention=30 * DAY, keep_completed=6 * HOUR)
    history(conn, clock)
    clock.set(MONDAY + DAY + 7 * HOUR)
    thin(conn, clock)  # the day of before is a copy now

    for parent in ("finished_jobs", "attempts"):
        checks = conn.execute(
            """
            select t.relname, array_agg(c.conname order by c.conname),
                array_agg(pg_get_constraintdef(c.oid) order by c.conname), bool_or(c.convalidated)
            from pg_class as t
            join pg_constraint as c on c.conrelid = t.oid and c.contype = 'c'
            where t.oid in (select relid from pg_partition_tree(%s))
            group by t.relname, t.relkind
            order by t.relkind = 'p' desc
            """,
            [f"rota.{parent}"],
        ).fetchall()
        assert f"{parent}_d{FIRST}" in {row[0] for row in checks}
        assert len(checks) == len(parts(conn, parent)) + 2  # and the default, and the parent
        assert all(row[1:] == checks[0][1:] for row in checks)
        assert not checks[0][-1]

    never = sql.SQL("update rota.{} set schedule_type = 'CRON' where state = 'FAILED'")
    with pytest.raises(psycopg.errors.CheckViolation, match="schedules_never_fail"):
        conn.execute(never.format(sql.Identifier(f"finished_jobs_d{FIRST}")))
    wrong = sql.SQL("update rota.{} set token = null")
    with pytest.raises(psycopg.errors.CheckViolation, match="attempted_unless_skipped"):
        conn.execute(wrong.format(sql.Identifier(f"attempts_d{FIRST}")))


def test_each_queue_keeps_what_it_says(conn, clock):
    call(conn, "configure_retention", retention=30 * DAY)
    call(conn, "configure_queue", queue="mail", keep_completed=3 * HOUR)
    call(conn, "configure_queue", queue="post", keep_failed=3 * HOUR, keep_completed=10 * DAY)
    made = history(conn, clock, ("default", "mail", "post"))
    clock.set(MONDAY + DAY + 4 * HOUR)

    thin(conn, clock)

    stays = made["default"][0] | made["default"][1] | made["mail"][1] | made["post"][0]
    assert ids(conn) == stays
    assert ids(conn, "job_executions") == stays
    assert healthy(conn)

    clock.set(MONDAY + 11 * DAY + HOUR)
    thin(conn, clock)
    assert ids(conn) == stays - made["post"][0]
    assert healthy(conn)


def test_a_queue_that_is_to_keep_less_from_now_on_does_so_of_what_is_there(conn, clock):
    call(conn, "configure_retention", retention=30 * DAY)
    call(conn, "configure_queue", queue="mail", keep_completed=20 * DAY)
    made = history(conn, clock, ("default", "mail"))
    clock.set(MONDAY + 2 * DAY)
    thin(conn, clock)
    assert ids(conn) == made["default"][0] | made["default"][1] | made["mail"][0] | made["mail"][1]

    call(conn, "configure_queue", queue="mail", keep_completed=HOUR)
    thin(conn, clock)

    assert ids(conn) == made["default"][0] | made["default"][1] | made["mail"][1]


def test_the_attempts_of_a_job_that_left_a_receipt_go_too(conn, clock):
    call(conn, "configure_retention", retention=30 * DAY)
    keep_nothing(conn)
    go_to(conn, clock, MONDAY)
    pair = start(conn)
    call(conn, "finish_job", **pair, error="x", retry_in=timedelta(0))
    call(conn, "finish_job", **claim(conn, pair["job_id"]))
    assert pair["job_id"] in ids(conn, "attempts")
    roll_up(conn, clock)
    clock.set(MONDAY + DAY + 3 * HOUR)
    for _ in range(4):
        call(conn, "maintain")

    thin(conn, clock)

    assert ids(conn, "attempts") == set()
    assert healthy(conn)


def test_a_workflow_that_goes_on_keeps_its_jobs_and_those_it_depends_on(conn, clock):
    call(conn, "configure_retention", retention=30 * DAY, keep_completed=2 * HOUR)
    go_to(conn, clock, MONDAY)
    outside = start(conn)
    nodes = call(
        conn,
        "enqueue_workflow",
        jobs=Jsonb(
            [
                {"task": "a", "node": "a"},
                {"task": "b", "depends_on": ["a", outside["job_id"]]},
            ]
        ),
    )
    first, second = (node["job_id"] for node in nodes)
    call(conn, "finish_job", **outside, result=Jsonb(1))
    call(conn, "finish_job", **claim(conn, first), result=Jsonb(2))
    running = claim(conn, second)
    other = finish_one(conn)
    roll_up(conn, clock)
    clock.set(MONDAY + DAY + 3 * HOUR)

    thin(conn, clock)

    assert other not in ids(conn)
    results = call(conn, "parent_results", job_id=second)
    assert sorted(row["result"] for row in results) == [1, 2]

    call(conn, "finish_job", **running)
    clock.advance(DAY + HOUR)
    thin(conn, clock)
    assert not {first, outside["job_id"]} & ids(conn)
    assert healthy(conn)


def test_a_schedule_lives_on_while_its_runs_go(conn, clock):
    call(conn, "configure_retention", retention=30 * DAY, keep_completed=2 * HOUR)
    go_to(conn, clock, MONDAY)
    (tick,) = call(conn, "schedule_job", task="tick", every="1 hour", starts_at=MONDAY)
    clock.advance(HOUR)
    call(conn, "finish_job", **claim(conn, tick["job_id"]))
    roll_up(conn, clock)
    clock.set(MONDAY + DAY + 3 * HOUR)
    assert ids(conn, "job_executions") == {tick["job_id"]}

    thin(conn, clock)

    assert ids(conn, "job_executions") == set()
    assert ids(conn) == {tick["job_id"]}
    assert healthy(conn)


def until_copied(conn, clock, parent="finished_jobs"):
    """Go on until all is copied of what stays of a partition."""
    roll_up(conn, clock)
    for _ in range(20):
        step(conn, clock)
        if conn.execute(
            """
            select from rota.thinned
            where parent = %s and going is not null and copies and next_block is null
                and open is null
            """,
            [parent],
        ).rowcount:
            return
    raise AssertionError("nothing was copied")


def test_what_comes_and_goes_while_copies_are_made_is_not_lost(conn, clock):
    call(conn, "configure_retention", retention=30 * DAY, keep_completed=6 * HOUR)
    [(_, failed)] = history(conn, clock).values()
    open_then = start(conn, max_retries=0)
    clock.set(MONDAY + DAY + 7 * HOUR)
    until_copied(conn, clock)
    back, *_ = failed

    call(conn, "retry_job", job_id=back)
    clock.set(MONDAY + 2 * HOUR)  # put back
    call(conn, "roll_up")
    call(conn, "finish_job", **open_then, error="late")
    clock.set(MONDAY + DAY + 8 * HOUR)
    thin(conn, clock)

    assert ids(conn) == failed | {open_then["job_id"]}
    assert ids(conn, "finished_jobs") == failed - {back} | {open_then["job_id"]}
    assert conn.execute("select state from rota.jobs where id = %s", [back]).fetchone() == (
        "SCHEDULED",
    )


def test_a_partition_is_not_exchanged_while_a_snapshot_is_older_than_the_copies(
    conn, connect, clock
):
    call(conn, "configure_retention", retention=30 * DAY, keep_completed=6 * HOUR)
    [(completed, failed)] = history(conn, clock).values()
    clock.set(MONDAY + DAY + 7 * HOUR)
    step(conn, clock)  # a copy is prepared
    reader = connect(autocommit=False)
    reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    reader.execute("select from rota.queues")

    for _ in range(6):
        step(conn, clock)

    assert {row[0] for row in reader.execute("select id from rota.jobs")} == completed | failed
    reader.rollback()
    thin(conn, clock)
    assert ids(conn) == failed


def test_steps_in_one_transaction_or_above_read_committed_do_no_harm(conn, connect, clock):
    call(conn, "configure_retention", retention=30 * DAY, keep_completed=6 * HOUR)
    [(completed, failed)] = history(conn, clock).values()
    clock.set(MONDAY + DAY + 7 * HOUR)
    together = connect(autocommit=False)
    for _ in range(6):
        step(together, clock)
    together.commit()
    above = connect(autocommit=False)
    above.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    for _ in range(3):
        step(above, clock)
        above.commit()
    assert ids(conn) == completed | failed

    thin(conn, clock)

    assert ids(conn) == failed


def test_a_partition_that_somebody_has_a_view_of_keeps_what_ran_out(conn, clock):
    call(conn, "configure_retention", retention=30 * DAY, keep_completed=6 * HOUR)
    [(completed, failed)] = history(conn, clock).values()
    conn.execute(
        sql.SQL("create view public.mine as select id from {}").format(
            sql.Identifier("rota", f"finished_jobs_d{FIRST}")
        )
    )
    clock.set(MONDAY + DAY + 7 * HOUR)
    conn.execute("set client_min_messages = warning")
    seen = []
    conn.add_notice_handler(lambda notice: seen.append(notice.message_primary))

    thin(conn, clock)

    assert ids(conn) == completed | failed
    assert [text for text in seen if "could not be replaced" in text]
    conn.execute("drop view public.mine")


def test_a_partition_that_is_dropped_while_it_is_copied_leaves_nothing(conn, clock):
    call(conn, "configure_retention", retention=30 * DAY, keep_completed=6 * HOUR)
    history(conn, clock)
    clock.set(MONDAY + DAY + 7 * HOUR)
    until_copied(conn, clock)
    clock.set(MONDAY + 60 * DAY)
    call(conn, "maintain")

    thin(conn, clock)

    assert ids(conn) == set()
    assert not conn.execute("select from pg_class where relname like '%_thin'").rowcount


def test_no_look_at_partitions_is_taken_where_all_are_kept_alike(conn, clock):
    call(conn, "do_chores")

    clock.advance(DAY)
    call(conn, "do_chores")

    assert conn.execute("select count(*) from rota.thinned").fetchone() == (0,)
