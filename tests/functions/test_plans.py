"""The plans and the storage that the speed comes from, held without a stopwatch."""

import contextlib
import json
import re
import uuid
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from rota.app.jobs import EXECUTIONS, IN_ORDER, JOB, NEWEST_FIRST
from rota.db.gateway import call
from tests.calls import CALLS
from tests.concurrency.sessions import forget_cursors
from tests.waiting import wait_until

pytestmark = pytest.mark.on_every_server

NO_JOB = 10**9
TABLES = {
    "never analyzed": "",
    "analyzed while empty": "analyze rota.live_jobs; analyze rota.lanes; analyze rota.queues;",
}


def fill(conn, jobs, queue="default"):
    conn.execute(
        """
        select count(*) from rota.enqueue_jobs((
            select jsonb_agg(jsonb_build_object('task', 'a', 'queue', %s::text, 'payload', g))
            from generate_series(1, %s) as g
        ))
        """,
        [queue, jobs],
    )


def scans(connect, conn):
    """Sequential and index scans of the hot table so far."""
    return counters(connect, conn, "seq_scan, idx_scan")


def updates(connect, conn):
    """Updates of the hot table so far, and those among them that left its indexes alone."""
    return counters(connect, conn, "n_tup_upd, n_tup_hot_upd")


def counters(connect, conn, names):
    """Counters of the hot table, with those of this session flushed."""
    conn.execute("select pg_stat_force_next_flush()")
    conn.execute("select 1")
    return (
        connect()
        .execute(
            f"select {names} from pg_stat_user_tables"  # noqa: S608
            " where schemaname = 'rota' and relname = 'live_jobs'"
        )
        .fetchone()
    )


@pytest.mark.parametrize("statistics", TABLES.values(), ids=TABLES)
def test_how_long_the_first_job_of_a_queue_has_waited_is_read_by_a_probe_a_lane(
    connect, statistics
):
    conn = connect()
    if statistics:
        conn.execute(statistics)
    for number in range(4):
        fill(conn, 5000, f"q{number}")
    before = fetched(connect, conn)

    assert conn.execute("select count(oldest_due_at) from rota.queue_heads").fetchone() == (4,)

    after = fetched(connect, conn)
    assert (after[0], after[1]) == (before[0], before[1] + 4)


def fetched(connect, conn):
    """Sequential scans of the hot table so far, and the rows that were found by an index."""
    scans(connect, conn)
    return (
        connect()
        .execute(
            "select seq_scan, idx_tup_fetch from pg_stat_user_tables"
            " where schemaname = 'rota' and relname = 'live_jobs'"
        )
        .fetchone()
    )


@pytest.mark.parametrize("statistics", TABLES.values(), ids=TABLES)
def test_no_function_of_the_hot_path_reads_the_whole_table(connect, statistics):
    conn = connect()
    if statistics:
        conn.execute(statistics)
    warm(conn)
    fill(conn, 20_000)
    before = scans(connect, conn)

    warm(conn)

    after = scans(connect, conn)
    assert after[0] == before[0]
    assert after[1] > before[1]


def warm(conn):
    """Call every function of a worker's life, often enough that plans are cached."""
    for _ in range(8):
        call(conn, "enqueue_job", task="a", unique_key="held")
        call(conn, "enqueue_job", task="a", unique_key="held")
        rows = call(conn, "claim_next_job", max_jobs=3)
        pairs = {"job_ids": [r["id"] for r in rows], "tokens": [r["token"] for r in rows]}
        call(conn, "heartbeat_jobs", **pairs)
        call(conn, "finish_jobs", **pairs)
        call(conn, "enqueue_job", task="b")
        (row,) = call(conn, "claim_next_job", queues=["default", "mail"])
        held = {"job_id": row["id"], "token": row["token"]}
        call(conn, "heartbeat_job", **held)
        call(conn, "hold_lease", **held)
        call(conn, "release_job", **held, delay=timedelta(hours=1))
        call(conn, "cancel_job", job_id=row["id"])
        look_behind(conn)


def look_behind(conn):
    """Do what a claim does whose cursor of the lane has been at the present for a while."""
    conn.execute(
        """
        select set_config(
            rota._lane_setting('default', 0),
            jsonb_populate_record(
                null::rota.lane_cursors,
                '{"queue": "default", "priority": 0, "run_at": "now", "swept_at": "2020-01-01",
                    "noted_at": "2020-01-01", "next_run_at": "now"}'
            )::text,
            false
        );
        select rota._look_behind('default', 0, rota._now(), 1, false);
        select set_config(rota._lane_setting('default', 0), '', false)
        """
    )


@pytest.mark.parametrize("size", [1, 100, 1000])
def test_over_95_percent_of_claims_are_heap_only_updates(connect, size):
    conn = connect()
    fill(conn, 5000)
    worker = str(uuid.uuid4())

    claimed = 0
    while rows := call(conn, "claim_next_job", worker=worker, max_jobs=size):
        claimed += len(rows)
        call(
            conn,
            "finish_jobs",
            job_ids=[row["id"] for row in rows],
            tokens=[row["token"] for row in rows],
        )
        if size == 1 and claimed == 1000:
            break

    updated, hot = updates(connect, conn)
    assert updated == claimed
    assert hot > 0.95 * updated


def test_no_index_of_the_hot_table_holds_a_column_that_a_claim_changes(conn):
    changed = {"state", "token", "worker", "lease_until", "attempt", "started_at"}

    definitions = [
        row[0]
        for row in conn.execute(
            "select indexdef from pg_indexes where schemaname = 'rota' and tablename = 'live_jobs'"
        )
    ]

    assert len(definitions) == 5
    for definition in definitions:
        assert changed.isdisjoint(re.findall(r"\w+", definition.split("USING")[1]))


def test_a_claim_under_a_limit_writes_nothing_to_the_index_of_lanes(connect):
    conn = connect()
    call(conn, "configure_queue", queue="q", key_max_running=1000)
    jobs = [{"task": "t", "queue": "q", "key": f"k{number % 100}"} for number in range(3000)]
    call(conn, "enqueue_jobs", jobs=Jsonb(jobs))
    size = "select pg_relation_size('rota.live_jobs_' || %s)"
    before = [conn.execute(size, [name]).fetchone() for name in ("in_lane", "counted")]

    while call(conn, "claim_next_job", queues=["q"], max_jobs=1000):
        pass

    after = [conn.execute(size, [name]).fetchone() for name in ("in_lane", "counted")]
    assert after[0] == before[0]
    assert after[1] > before[1]


@pytest.mark.parametrize("limit", [None, 1000])
def test_the_live_jobs_of_one_queue_are_found_by_index(connect, limit):
    """Though what runs under a limit stands in another one."""
    conn = connect()
    if limit:
        call(conn, "configure_queue", queue="few", key_max_running=limit)
    fill(conn, 20_000)
    call(conn, "enqueue_many", task="t", queue="few", key="k", payloads=Jsonb([1, 2, 3]))
    wait_until(lambda: call(conn, "claim_next_job", queues=["few"]))
    conn.execute("analyze")
    before = scans(connect, conn)[0]

    state = conn.execute(
        "select scheduled, running from rota.queue_status where queue = 'few'"
    ).fetchone()
    with pytest.raises(psycopg.Error, match="has live jobs"):
        call(conn, "delete_queue", queue="few")
    assert call(conn, "explain_job", job_id=20_003)

    assert state == (2, 1)
    assert scans(connect, conn)[0] == before


def test_a_claim_uses_all_columns_of_its_lane_as_index_conditions(connect):
    conn = connect()
    fill(conn, 1000)
    plans = plans_of(conn)

    call(conn, "claim_next_job")

    (lane_scan,) = [plan for plan in plans if "LockRows" in plan]
    condition = index_condition(lane_scan)
    assert "live_jobs_in_lane" in lane_scan
    assert all(part in condition for part in ("queue =", "END =", "ROW(run_at, id)", "run_at <="))
    (update,) = [plan for plan in plans if "Update on live_jobs" in plan]
    assert "TID Cond" in update


def test_a_look_behind_a_cursor_reads_no_more_than_its_slice(connect):
    conn = connect()
    plans = plans_of(conn)

    look_behind(conn)

    slices = [plan for plan in plans if "LockRows" in plan]
    assert slices
    for plan in slices:
        condition = index_condition(plan)
        assert "live_jobs_in_lane" in plan
        assert all(
            part in condition for part in ("queue =", "END =", "run_at >=", "ROW(run_at, id) <")
        )


@pytest.mark.parametrize("max_jobs", [1, 10])
def test_windows_are_read_and_written_by_the_statements_that_ask_not_by_calls(connect, max_jobs):
    conn = connect()
    limits = {"max_starts": 100, "key_max_starts": 100}
    periods = dict.fromkeys(("starts_period", "key_starts_period"), timedelta(hours=1))
    call(conn, "configure_queue", queue="q", **limits, **periods)
    jobs = [{"task": "t", "queue": "q", "key": f"k{n % 5}"} for n in range(20)]
    call(conn, "enqueue_jobs", jobs=Jsonb(jobs))
    wait_until(lambda: call(conn, "claim_next_job", queues=["q"], max_jobs=max_jobs))
    plans = plans_of(conn)

    assert call(conn, "claim_next_job", queues=["q"], max_jobs=max_jobs)

    for function in ("_starts_left", "_add_starts"):
        asking = [plan for plan in plans if f"rota.{function}(" in plan]
        assert asking
        assert not [plan for plan in asking if f"Function Scan on {function}" in plan]


KEYED_TABLES = {
    **TABLES,
    "large": "select rota.fill_keys(); analyze",
}
FILL_KEYS = """
    create function rota.fill_keys()
        returns void
        language sql
    as $$
        select count(*) from rota.enqueue_jobs((
            select jsonb_agg(jsonb_build_object(
                'task', 'a', 'queue', 'keyed', 'key', 'key ' || g % 100, 'payload', g
            ))
            from generate_series(1, 5000) as g
        ))
    $$
"""


def work_with_keys(conn):
    """All that turns, room and windows are asked for, often enough that plans are cached."""
    for number in range(6):
        for key in ("k", "l", None):
            call(conn, "enqueue_job", task="a", queue="keyed", key=key)
        rows = call(conn, "claim_next_job", queues=["keyed"], max_jobs=20)
        pairs = {"job_ids": [r["id"] for r in rows], "tokens": [r["token"] for r in rows]}
        errors = ["boom" if place % 3 == 0 else None for place in range(len(rows))]
        call(conn, "finish_jobs", **pairs, errors=errors)
        for row in call(conn, "claim_next_job", queues=["keyed"]):
            call(conn, "finish_job", job_id=row["id"], token=row["token"])
        (job,) = call(conn, "enqueue_job", task="a", queue="keyed", key=f"new {number}")
        call(conn, "cancel_job", job_id=job["job_id"])
        call(conn, "next_due_in", queues=["keyed"])


LIMITS_OF_KEYS = {
    "no limits": {},
    "limits": {
        "max_running": 1000,
        "max_starts": 100_000,
        "starts_period": timedelta(hours=1),
        "key_max_running": 100,
        "key_max_starts": 1000,
        "key_starts_period": timedelta(hours=1),
    },
    "order": {"key_in_order": True},
}


@pytest.mark.parametrize("statistics", KEYED_TABLES.values(), ids=KEYED_TABLES)
@pytest.mark.parametrize("limits", LIMITS_OF_KEYS.values(), ids=LIMITS_OF_KEYS)
def test_nothing_that_has_to_do_with_keys_reads_a_whole_table(connect, statistics, limits):
    conn = connect()
    conn.execute(FILL_KEYS)
    if limits:
        call(conn, "configure_queue", queue="keyed", **limits)
    if statistics:
        conn.execute(statistics)
    work_with_keys(conn)
    if "fill" not in statistics:
        conn.execute("select rota.fill_keys()")
    plans = plans_of(conn)

    work_with_keys(conn)

    conn.execute("drop function rota.fill_keys")
    read = {
        line.strip()
        for plan in plans
        for line in plan.splitlines()
        if re.search(r"Seq Scan on (rota\.)?(live_jobs|turns|flows|flow_locks)", line)
    }
    assert read == set()
    assert_turns_are_found_by_key(plans)
    looks = [p for p in plans if "LockRows" in p and "unnest" in p and "live_jobs_in_lane" in p]
    assert looks
    for look in looks:
        condition = re.search(r"using live_jobs_in_lane.*\n\s+Index Cond: (.*)", look)[1]
        parts = ("queue)", "hashtextextended(k.key", ">= ROW(", " <= $")
        assert all(part in condition for part in parts), look


def assert_turns_are_found_by_key(plans):
    """That no look for the turns of a key reads those of others: its lane may have very many."""
    scans = [
        scan
        for plan in plans
        for scan in re.findall(r"using (turns_\w+) on turns.*\n\s+(Index Cond: .*)", plan)
    ]
    assert {"turns_in_time", "turns_by_key"} <= {index for index, _ in scans}
    for index, condition in scans:
        assert "(key = " in condition or "(ready_at <" in condition, (index, condition)
    for plan in plans:
        assert not re.search(r"using turns_in_time.*\n.*\n\s+Filter: .*key = ", plan), plan


def end_one(conn, **how):
    (row,) = call(conn, "claim_next_job", lease=timedelta(minutes=1))
    held = {"job_id": row["id"], "token": row["token"]}
    call(conn, "release_job" if how == {} else "finish_job", **held, **how)


ENDS = {
    "fails for good": {"error": "boom", "retry": False},
    "fails, and is tried again": {"error": "boom", "retry_in": timedelta(hours=1)},
    "succeeds": {"result": Jsonb(1)},
    "succeeds, with limits": {"result": Jsonb(1)},
    "is handed back": {},
}


@pytest.mark.parametrize("way", ENDS)
def test_what_ends_is_found_by_its_place_also_by_plans_of_a_tiny_table(connect, way):
    """Of a table of one page whoever knows that reads all of it, and it may grow to any size."""
    conn = connect()
    conn.execute("alter table rota.live_jobs set (autovacuum_enabled = off)")
    if "limits" in way:
        call(conn, "configure_queue", queue="default", max_running=1000)
    fill(conn, 50)
    conn.execute("vacuum analyze rota.live_jobs")
    for _ in range(8):
        end_one(conn, **ENDS[way])
    fill(conn, 10_000)
    _, before = fetched(connect, conn)

    for _ in range(5):
        end_one(conn, **ENDS[way])

    _, after = fetched(connect, conn)
    assert after - before < 5 * 200


def plans_of(conn):
    """Return a list to which the plan of each statement of the session is added from now on."""
    try:
        conn.execute("load 'auto_explain'")
    except psycopg.Error:
        pytest.skip("this server has no auto_explain")
    conn.execute("set auto_explain.log_min_duration = 0")
    conn.execute("set auto_explain.log_nested_statements = on")
    conn.execute("set client_min_messages = log")
    conn.execute("set quote_all_identifiers = off")
    plans = []
    conn.add_notice_handler(lambda notice: plans.append(notice.message_primary))
    return plans


def test_no_call_is_compiled(connect, conn, clock):
    """Where much is forbidden all looks dear to the planner, and to compile takes 50 ms a call."""
    caller = connect()
    if conn.execute("select pg_jit_available()").fetchone() == (False,):
        pytest.skip("this server cannot compile")
    plans = plans_of(caller)
    compiled = set()

    for function, prepare, more in CALLS:
        conn.execute("delete from rota.schedules; delete from rota.live_jobs")
        conn.execute("delete from rota.job_waits; delete from rota.job_dependencies")
        arguments = prepare(conn, clock) | more
        forget_cursors(conn)
        for known in (True, False):
            if not known and not arguments.keys() & {"job_id", "job_ids"}:
                continue
            plans.clear()
            with contextlib.suppress(psycopg.DatabaseError):  # RTN01: there is no such job
                call(caller, function, **(arguments if known else arguments | nobody(arguments)))
            compiled |= {(function, known, plan[:300]) for plan in plans if "JIT:" in plan}

    assert compiled == set()


def nobody(arguments):
    """Return arguments that name a job that is nowhere instead of the one that they name."""
    if "job_ids" in arguments:
        return {"job_ids": [NO_JOB] * len(arguments["job_ids"])}
    return {"job_id": NO_JOB}


def index_condition(plan):
    condition = re.search(r"Index Cond: (.*)", plan)[1]
    return re.sub(r"\((\w+)\)::[a-z]+( [a-z]+)*", r"\1", condition)  # casts of domains


# -- workflows

MANY = 10_000


def fill_workflows(conn):
    """Leave many jobs that wait, and many that went down, in workflows of others."""
    for _ in range(2):
        fan_out(conn, MANY)
    (root,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=root["id"], token=root["token"], error="x", retry=False)


def fan_out(conn, number, queue="default"):
    parts = [{"task": "a", "queue": queue, "node": "root"}]
    parts += [{"task": "a", "queue": queue, "depends_on": ["root"]}] * number
    parts += [{"task": "a", "queue": queue, "depends_on": "all"}]
    rows = call(conn, "enqueue_workflow", jobs=Jsonb(parts))
    return rows[0]["workflow_id"], rows[0]["job_id"], rows[-1]["job_id"]


def steps_of_a_workflow(conn, number=MANY):
    """All that can become of a root and its children, and of who awaits an event; name each."""
    queue = f"mine {number}"
    whole, root, last = fan_out(conn, number, queue)
    yield "enqueue_workflow"
    (job,) = call(conn, "claim_next_job", queues=[queue])
    held = {"job_id": root, "token": job["token"]}
    yield "a claim"
    call(conn, "finish_job", **held, error="x", retry=False)
    yield "a root that fails"
    call(conn, "retry_job", job_id=root)
    yield "retry_job"
    call(conn, "cancel_workflow", workflow_id=whole)
    yield "cancel_workflow"
    call(conn, "retry_workflow", workflow_id=whole)
    yield "retry_workflow"
    call(conn, "cancel_jobs", filter=Jsonb({"ids": [root]}), dry_run=False)
    yield "cancel_jobs"
    call(conn, "retry_jobs", filter=Jsonb({"ids": [root]}), dry_run=False)
    yield "retry_jobs"
    (job,) = call(conn, "claim_next_job", queues=[queue])
    call(conn, "finish_job", job_id=root, token=job["token"])
    yield "a root that completes"
    for size in (number // 2, number - number // 2):
        jobs = call(conn, "claim_next_job", queues=[queue], max_jobs=size)
        pairs = {"job_ids": [j["id"] for j in jobs], "tokens": [j["token"] for j in jobs]}
        call(conn, "finish_jobs", **pairs)
        yield "finish_jobs"
    assert len(call(conn, "parent_results", job_id=last)) == number + 1
    yield "parent_results"
    child = [{"task": "a", "queue": queue, "depends_on": pairs["job_ids"]}]
    call(conn, "enqueue_workflow", jobs=Jsonb(child))
    yield "a child of many that completed"
    call(conn, "cancel_jobs", filter=Jsonb({"queue": queue}), dry_run=False)
    yield "cancel_jobs by a queue"


# How many jobs each reads at most that has to do with all of them, whatever else there is.
LOOKS_AT_MOST = 30


def rows_of_tables(connect, conn):
    """Return how many rows were read so far, of which tables."""
    conn.execute("select pg_stat_force_next_flush()")
    conn.execute("select 1")
    query = (
        "select relname, seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables"
        " where schemaname = 'rota'"
    )
    return dict(connect().execute(query).fetchall())


def plan_while_tiny(conn):
    """Have this session make its plans when the tables have a page each, and know that."""
    for _ in range(2):
        for _ in steps_of_a_workflow(conn, 3):
            pass
        conn.execute("vacuum analyze")
    for _ in steps_of_a_workflow(conn, 3):
        pass


WORKFLOW_TABLES = {
    "never analyzed": lambda conn: None,
    "analyzed while empty": lambda conn: conn.execute("analyze"),
    "large, never analyzed": fill_workflows,
    "large": lambda conn: (fill_workflows(conn), conn.execute("analyze")),
    "planned while tiny": plan_while_tiny,
}


@pytest.mark.parametrize("prepare", WORKFLOW_TABLES.values(), ids=WORKFLOW_TABLES)
def test_what_is_done_to_a_large_workflow_reads_each_of_its_jobs_a_few_times(connect, prepare):
    conn = connect()
    for table in ("live_jobs", "job_waits", "job_dependencies", "workflow_jobs"):
        conn.execute(f"alter table rota.{table} set (autovacuum_enabled = off)")
    prepare(conn)
    before = rows_of_tables(connect, conn)

    for step in steps_of_a_workflow(conn):
        after = rows_of_tables(connect, conn)
        read = {table: rows - before[table] for table, rows in after.items()}
        assert sum(read.values()) < LOOKS_AT_MOST * MANY, (
            step,
            {table: rows for table, rows in read.items() if rows},
        )
        before = after


@pytest.mark.parametrize("prepare", WORKFLOW_TABLES.values(), ids=WORKFLOW_TABLES)
def test_what_is_done_to_a_large_workflow_joins_nothing_row_by_row(connect, prepare):
    conn = connect()
    for table in ("live_jobs", "job_waits", "job_dependencies", "workflow_jobs"):
        conn.execute(f"alter table rota.{table} set (autovacuum_enabled = off)")
    prepare(conn)
    plans = plans_of(conn)
    for setting in ("log_analyze = on", "log_timing = off", "log_format = json"):
        conn.execute(f"set auto_explain.{setting}")

    for step in steps_of_a_workflow(conn):
        for text in [text for text in plans if "plan:" in text]:
            plan = json.loads(text[text.index("{") :])["Plan"]
            assert most_rows(plan) < LOOKS_AT_MOST * MANY, (step, text[:3000])
        plans.clear()


def most_rows(plan):
    """Return how many rows the node of a plan has looked at that has looked at the most."""
    rows = plan["Actual Rows"]
    rows += sum(plan.get(f"Rows Removed by {by}", 0) for by in ("Filter", "Join Filter"))
    return max([rows * plan["Actual Loops"], *map(most_rows, plan.get("Plans", ()))])


@pytest.mark.parametrize("statistics", TABLES.values(), ids=TABLES)
def test_steps_and_events_read_no_whole_table(connect, statistics):
    conn = connect()
    if statistics:
        conn.execute(statistics + "analyze rota.job_steps, rota.events, rota.event_waits")
    work_with_steps(conn)
    conn.execute(
        """
        insert into rota.job_steps select 1000000 + g, 0, 'one', '1', now()
        from generate_series(1, 5000) as g;
        insert into rota.events select 'e ' || g, '1', now(), now()
        from generate_series(1, 5000) as g;
        insert into rota.event_waits select 'w ' || g, 1000000 + g, 0, 's', now()
        from generate_series(1, 5000) as g;
        """
    )
    fill(conn, 5000, "other")
    before, (scanned, _) = rows_of_tables(connect, conn), scans(connect, conn)

    work_with_steps(conn)

    after = rows_of_tables(connect, conn)
    read = {table: rows - before[table] for table, rows in after.items()}
    read["live_jobs"] = scans(connect, conn)[0] - scanned
    assert sum(read.values()) < 8 * 200, {table: rows for table, rows in read.items() if rows}
    conn.execute("delete from rota.event_waits")


def work_with_steps(conn):
    """Record, sleep, await and emit, often enough that plans are cached."""
    for _ in range(8):
        (job,) = call(conn, "enqueue_job", task="a")
        for kind in ("record", "sleep", "await", "finish"):
            (row,) = call(conn, "claim_next_job")
            pair = {"job_id": row["id"], "token": row["token"]}
            call(conn, "record_step", **pair, step="one", result=Jsonb(1))
            call(conn, "recorded_steps", job_id=row["id"])
            if kind == "record":
                call(conn, "release_job", **pair)
            elif kind == "sleep":
                call(conn, "sleep_job", **pair, step="nap", delay=timedelta(milliseconds=1))
                conn.execute("select pg_sleep(0.002)")
            elif kind == "await":
                name = {"event": f"e:{job['job_id']}"}
                call(conn, "await_event", **pair, step="s", **name, timeout=timedelta(hours=1))
                call(conn, "emit_event", **name)
            else:
                call(conn, "finish_job", **pair, next=Jsonb([{"task": "a", "queue": "later"}]))
        call(conn, "enqueue_job", task="a", queue="keyed", unique_key="k", replace=True)


def test_the_jobs_view_pages_by_index(connect):
    conn = connect()
    fill(conn, 20_000)
    rows = call(conn, "claim_next_job", max_jobs=10_000)
    call(
        conn,
        "finish_jobs",
        job_ids=[row["id"] for row in rows],
        tokens=[row["token"] for row in rows],
        results=[Jsonb(1)] * len(rows),
    )
    conn.execute("analyze")

    plan = "\n".join(
        row[0]
        for row in conn.execute(
            "explain select * from rota.jobs where id < 9000 order by id desc limit 50"
        )
    )

    assert "Seq Scan" not in plan
    assert "Sort Key" not in plan or "Merge Append" in plan


# Ten weeks: 40,000 jobs that completed, 10,000 that failed, and a schedule with 30,000 runs.
HISTORY = """
    select rota._make_partition(p.parent, now() - w * interval '7 days')
    from generate_series(1, 10) as w
    cross join unnest(array['finished_jobs', 'attempts']) as p(parent);

    insert into rota.finished_jobs (
        id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run,
        attempt, max_retries, worker, token, created_at, started_at, finished_at
    )
    select
        g, 'task', '{}', 'default', 0, case g % 5 when 0 then 'FAILED' else 'COMPLETED' end,
        'ONE_TIME', now(), now(), 1, 1, 3, 'w', case when g % 5 > 0 then gen_random_uuid() end,
        now(), now(), now() - interval '70 days' + g * interval '2 minutes'
    from generate_series(1, 50000) as g;

    insert into rota.attempts (
        job_id, run, attempt, outcome, worker, token, scheduled_for, started_at, finished_at,
        job_state
    )
    select
        g, 1, 1, 'FAILED', 'w', gen_random_uuid(), now(), now(),
        now() - interval '70 days' + g * interval '2 minutes', 'FAILED'
    from generate_series(5, 50000, 5) as g
    union all
    select
        60000, g, 1, 'SUCCEEDED', 'w', gen_random_uuid(), now(), now(),
        now() - interval '70 days' + g * interval '3 minutes', 'SCHEDULED'
    from generate_series(1, 30000) as g;
"""

# What people and the API ask, and how many rows of attempts there are to the answer.
LOOKS = {
    "of a job": ("select * from rota.{view} where job_id = 20001", 1),
    "of a job that failed": ("select * from rota.{view} where job_id = 20000", 1),
    "of a job, the last ones": (
        "select * from rota.{view} where job_id = 60000 order by finished_at desc limit 20", 20
    ),
    "of a job, and of a time": (
        "select * from rota.{view} where job_id = 60000"
        " and finished_at between now() - interval '30 days' and now() - interval '29 days'", 480
    ),
    "a job": (JOB, 1 + 20),
    "the first page of a job": (EXECUTIONS + NEWEST_FIRST + sql.SQL(" limit 51"), 51),
    "a later page of a job": (
        EXECUTIONS
        + sql.SQL(
            "and (finished_at, run, attempt, outcome)"
            " < (now() - interval '30 days', 9, 9, 'SUCCEEDED')"
        )
        + NEWEST_FIRST
        + sql.SQL(" limit 51"),
        51,
    ),
}  # fmt: skip


@pytest.fixture(params=["never analyzed", "analyzed while empty", "analyzed"])
def history(request, conn):
    if request.param == "analyzed while empty":
        conn.execute("analyze")
    conn.execute("alter table rota.live_jobs set (autovacuum_enabled = off)")
    conn.execute(HISTORY)
    if request.param == "analyzed":
        conn.execute("analyze")
    yield conn
    conn.execute("truncate rota.finished_jobs, rota.attempts")


def rows_read(plan):
    """How many rows the scans of a plan read, those that they did not return too."""
    rows = sum(plan.get(f"Rows Removed by {by}", 0) for by in ("Filter", "Index Recheck"))
    if "Relation Name" in plan:
        rows += plan["Actual Rows"]
    return rows * plan["Actual Loops"] + sum(map(rows_read, plan.get("Plans", ())))


@pytest.mark.parametrize("walls", [False, True], ids=["no walls", "walls"])
def test_attempts_are_found_by_their_job_in_both_tables(history, walls):
    """Whatever statistics say, and however many weeks there are. Through walls, with all of its."""
    if walls:
        call(history, "wall", principal="rota_worker", queue_pattern="another")
    history.execute("set jit = off")

    for name, (look, rows) in LOOKS.items():
        for view in ("job_executions", "executions"):
            text = look.as_string() if isinstance(look, sql.Composable) else look.format(view=view)
            for job_id in (20_001, 60_000):
                with history.transaction():
                    history.execute(IN_ORDER if "page" in name else "select")
                    ((plan,),) = history.execute(
                        f"explain (analyze, timing off, format json) {text}",
                        {"id": job_id, "executions_url": ""},
                    ).fetchall()

                if walls and "order by" in text:  # which does not get through them
                    rows = 30_000  # all that one job has
                weeks = 32  # whose first rows are read to be put in order
                assert rows_read(plan[0]["Plan"]) <= rows + weeks, (name, view, job_id)


def test_a_look_for_failures_does_not_read_what_succeeded(history):
    """Successes, which are nearly all there is, are left out before anything is read."""
    history.execute("analyze")
    ((plan,),) = history.execute(
        "explain (format json) select * from rota.executions where outcome = 'FAILED'"
    ).fetchall()

    assert "finished_jobs" not in str(plan)


@pytest.mark.parametrize("more", [{}, {"unique_for": timedelta(hours=1)}, {"replace": True}])
def test_who_has_a_key_is_found_by_the_key_whatever_else_waits_in_the_queue(connect, conn, more):
    """In a session whose plans were made while the table was empty."""
    for number in range(10):
        call(conn, "enqueue_job", task="a", unique_key=f"early {number}", **more)
        call(conn, "enqueue_job", task="a", unique_key=f"early {number}", **more)
    fill(connect(), 5000)
    _, before = fetched(connect, conn)

    call(conn, "enqueue_job", task="a", unique_key="late", **more)
    call(conn, "enqueue_job", task="a", unique_key="late", **more)

    _, after = fetched(connect, conn)
    assert after - before < 50
