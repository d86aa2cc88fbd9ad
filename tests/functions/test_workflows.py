"""Jobs that depend on others: each shape, each way to end, to come back, and to be forgotten."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.calls import enqueue, held, workflow
from tests.concurrency.sessions import forget_cursors, sqlstate

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LATER = datetime(2200, 1, 1, tzinfo=UTC)


def graph(conn, *jobs):
    """Enqueue a workflow, and return the ids of its jobs."""
    return [row["job_id"] for row in workflow(conn, *jobs)]


def claim(conn, max_jobs=100, queue="default"):
    forget_cursors(conn)
    rows = call(conn, "claim_next_job", queues=[queue], max_jobs=max_jobs)
    return {row["id"]: row["token"] for row in rows}


def finish(conn, job_id, token, error=None, **more):
    more = {"retry": False, **more}
    rows = call(conn, "finish_job", job_id=job_id, token=token, error=error, **more)
    return rows[0]["state"]


def end(conn, *job_ids, error=None):
    """Claim all that is due, and finish those; the rest is handed back."""
    for job_id, token in claim(conn).items():
        if job_id in job_ids:
            finish(conn, job_id, token, error)
        else:
            call(conn, "release_job", job_id=job_id, token=token)


def states(conn, *job_ids):
    rows = dict(conn.execute("select id, state from rota.jobs").fetchall())
    return [rows.get(job_id) for job_id in job_ids]


def job(conn, job_id):
    cursor = conn.cursor(row_factory=dict_row)
    return cursor.execute("select * from rota.jobs where id = %s", [job_id]).fetchone()


def node(conn, job_id):
    cursor = conn.cursor(row_factory=dict_row)
    query = "select * from rota.workflow_nodes where job_id = %s"
    return cursor.execute(query, [job_id]).fetchone()


def status(conn, workflow_id):
    cursor = conn.cursor(row_factory=dict_row)
    query = "select * from rota.workflow_status where id = %s"
    return cursor.execute(query, [workflow_id]).fetchone()


def refused(conn, code, function, **arguments):
    """Make a call that is refused, and return in which words."""
    with pytest.raises(psycopg.Error) as caught:
        call(conn, function, **arguments)
    assert caught.value.sqlstate == code, caught.value
    return caught.value.diag.message_primary


def links(conn):
    """How many edges are open, and how many jobs wait."""
    return conn.execute(
        "select (select count(*) from rota.job_dependencies), (select count(*) from rota.job_waits)"
    ).fetchone()


X, Y, Z = {"node": "x"}, {"node": "y"}, {"node": "z"}
PREVIOUS, ALL = {"depends_on": "previous"}, {"depends_on": "all"}
RUN = {"if_parent_fails": "run"}


def after(*nodes):
    return {"depends_on": list(nodes)}


# Each shape: its jobs; which run one after the other when all is well; what becomes of them when
# the first one fails: C stands for COMPLETED, F for FAILED, X for CANCELLED.
SHAPES = {
    "one": ([{}], [[0]], "F"),
    "several that nothing links": ([{}, {}], [[0, 1]], "FC"),
    "a chain": ([{}, PREVIOUS, PREVIOUS, PREVIOUS], [[0], [1], [2], [3]], "FXXX"),
    "a chain that goes on": ([{}, PREVIOUS | RUN, PREVIOUS], [[0], [1], [2]], "FCC"),
    "fan-out": ([X, after("x"), after("x"), after("x") | RUN], [[0], [1, 2, 3]], "FXXC"),
    "fan-in": ([{}, {}, {}, ALL], [[0, 1, 2], [3]], "FCCX"),
    "a batch and its callback": ([{}, {}, ALL | RUN], [[0, 1], [2]], "FCC"),
    "a batch with callbacks for each end": (
        [X, Y, after("x", "y"), after("x", "y") | RUN],
        [[0, 1], [2, 3]],
        "FCXC",
    ),
    "a callback of all, callbacks too": ([X, after("x"), ALL | RUN], [[0], [1], [2]], "FXC"),
    "a diamond": (
        [X, Y | after("x"), Z | after("x"), after("y", "z")],
        [[0], [1, 2], [3]],
        "FXXX",
    ),
    "a diamond with a side that goes on": (
        [X, Y | after("x"), Z | after("x") | RUN, after("y", "z") | RUN],
        [[0], [1, 2], [3]],
        "FXCC",
    ),
    "a parent that is named twice": ([X, after("x", "x")], [[0], [1]], "FX"),
    "the first depends on all and on the previous": ([ALL, PREVIOUS], [[0], [1]], "FX"),
}
ENDS = {"C": "COMPLETED", "F": "FAILED", "X": "CANCELLED"}


@pytest.mark.parametrize(("jobs", "rounds", "ends"), SHAPES.values(), ids=SHAPES)
def test_a_job_runs_when_all_that_it_depends_on_has_ended(conn, jobs, rounds, ends):
    ids = graph(conn, *jobs)

    for places in rounds:
        claimed = claim(conn)
        assert sorted(claimed) == [ids[place] for place in places]
        for one in claimed.items():
            assert call(conn, "check_invariants") == []
            finish(conn, *one)

    assert claim(conn) == {}
    assert set(states(conn, *ids)) == {"COMPLETED"}
    assert links(conn) == (0, 0)


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "a batch"])
@pytest.mark.parametrize(("jobs", "rounds", "ends"), SHAPES.values(), ids=SHAPES)
def test_what_depends_on_a_job_that_fails_is_cancelled_or_runs(conn, jobs, rounds, ends, together):
    ids = graph(conn, *jobs)

    while claimed := claim(conn):
        errors = {one: "boom" if one == ids[0] else None for one in claimed}
        if together:
            pairs = {"job_ids": list(claimed), "tokens": list(claimed.values())}
            call(conn, "finish_jobs", **pairs, errors=list(errors.values()))
            conn.execute("update rota.live_jobs set run_at = now() where state = 'SCHEDULED'")
        else:
            for one, token in claimed.items():
                finish(conn, one, token, errors[one])

    assert states(conn, *ids) == [ENDS[letter] for letter in ends]
    assert links(conn) == (0, 0)


def test_parents_that_end_in_one_batch_all_count(conn):
    *parents, child = graph(conn, {}, {}, {}, ALL)
    tokens = claim(conn)

    pairs = {"job_ids": parents[:2], "tokens": [tokens[one] for one in parents[:2]]}
    call(conn, "finish_jobs", **pairs)

    assert states(conn, child) == ["WAITING"]
    finish(conn, parents[2], tokens[parents[2]])
    assert states(conn, child) == ["SCHEDULED"]


def test_a_batch_of_which_one_fails_tells_each_child_of_its_own_parents(conn):
    x, y, good, bad = graph(conn, X | {"max_retries": 0}, Y | {"max_retries": 0}, *map(after, "xy"))
    tokens = claim(conn)

    pairs = {"job_ids": [x, y], "tokens": [tokens[x], tokens[y]]}
    call(conn, "finish_jobs", **pairs, errors=[None, "boom"])

    assert states(conn, x, y, good, bad) == ["COMPLETED", "FAILED", "SCHEDULED", "CANCELLED"]


@pytest.mark.parametrize("error", [None, "boom"])
def test_a_parent_that_takes_room_settles_as_any_other(conn, error):
    call(conn, "configure_queue", queue="default", key_max_running=1)
    one, finally_, child = graph(conn, X | {"key": "k"}, after("x") | RUN, after("x"))
    tokens: dict = {}
    while not tokens:
        tokens = claim(conn)

    finish(conn, one, tokens[one], error)

    ended = "SCHEDULED" if error is None else "CANCELLED"
    assert states(conn, finally_, child) == ["SCHEDULED", ended]


def test_sleeping_workers_are_told_of_what_is_free_to_run(conn, connect):
    graph(conn, {}, PREVIOUS)
    pair = held(conn)
    listener = connect()
    listener.execute("listen rota_jobs")
    call(listener, "begin_sleep", queues=["default"])

    finish(conn, **pair)

    assert [*listener.notifies(timeout=5, stop_after=1)]


@pytest.mark.parametrize("policy", ["cancel", "run"])
def test_a_child_waits_while_its_parent_is_tried_again(conn, policy):
    one, child = graph(conn, {"max_retries": 1}, PREVIOUS | {"if_parent_fails": policy})

    call(conn, "finish_job", **held(conn), error="x", retry_in=timedelta(0))
    assert states(conn, one, child) == ["SCHEDULED", "WAITING"]
    call(conn, "release_job", **held(conn))
    assert states(conn, one, child) == ["SCHEDULED", "WAITING"]
    call(conn, "finish_job", **held(conn), error="x")
    assert states(conn, one, child) == [
        "FAILED",
        "CANCELLED" if policy == "cancel" else "SCHEDULED",
    ]


@pytest.mark.parametrize("way", ["lost", "cancelled while it runs", "released after a cancel"])
def test_a_parent_that_is_lost_or_cancelled_has_not_completed(conn, clock, way):
    one, child, finally_ = graph(conn, X | {"max_retries": 0}, after("x"), after("x") | RUN)
    pair = held(conn)
    if way == "lost":
        clock.advance(HOUR)
        call(conn, "recover_jobs")
    else:
        call(conn, "cancel_job", job_id=one)
        assert states(conn, child, finally_) == ["WAITING", "WAITING"]
        call(conn, "release_job" if "released" in way else "finish_job", **pair)

    ended = "FAILED" if way == "lost" else "CANCELLED"
    assert states(conn, one, child, finally_) == [ended, "CANCELLED", "SCHEDULED"]


def test_who_went_down_says_with_whom(conn):
    one, child, below = graph(conn, {}, PREVIOUS, PREVIOUS)

    end(conn, one, error="boom")

    assert job(conn, child)["cancel_reason"] == f"job {one}, on which it depends, did not complete"
    assert (
        job(conn, below)["cancel_reason"] == f"job {child}, on which it depends, did not complete"
    )
    assert [node(conn, some)["ended_by"] for some in (one, child, below)] == [None, one, child]
    assert job(conn, child)["attempt"] == 0 and job(conn, child)["finished_at"]
    assert conn.execute(
        "select count(*) from rota.executions where job_id = any(%s)", [[child, below]]
    ).fetchone() == (0,)


# -- the document

BAD = {
    "no array": ({"task": "t"}, "jobs must be a JSON array of objects, at least one"),
    "an empty array": ([], "jobs must be a JSON array of objects, at least one"),
    "no object": ([{"task": "t"}, 5], "jobs[1]: a job must be an object"),
    "a misspelt key": (
        [{"task": "t"}, {"task": "t", "depnds_on": []}],
        "jobs[1]: depnds_on is not an argument of enqueue_workflow",
    ),
    "a key of enqueue_job that is none here": (
        [{"task": "t", "unique_for": "1 hour"}],
        "jobs[0]: unique_for is not an argument of enqueue_workflow",
    ),
    "no task": ([{"task": "t"}, {}], "jobs[1]: task must have 1 to 200 characters, not 0"),
    "a long node": (
        [{"task": "t", "node": "n" * 201}],
        "jobs[0]: node must have 1 to 200 characters, not 201",
    ),
    "an empty node": (
        [{"task": "t", "node": ""}],
        "jobs[0]: node must have 1 to 200 characters, not 0",
    ),
    "a node that moves the cursor": (
        [{"task": "t", "node": "a\x1b"}],
        "jobs[0]: node must not contain control characters",
    ),
    "a node twice": (
        [{"task": "t", "node": "a"}, {"task": "t"}, {"task": "t", "node": "a"}],
        "jobs[2]: node a stands twice",
    ),
    "its own node": (
        [{"task": "t", "node": "a", "depends_on": ["a"]}],
        "jobs[0]: depends_on: no job before this one is the node a",
    ),
    "a later node": (
        [{"task": "t", "depends_on": ["b"]}, {"task": "t", "node": "b"}],
        "jobs[0]: depends_on: no job before this one is the node b",
    ),
    "an unknown node": (
        [{"task": "t", "node": "a"}, {"task": "t", "depends_on": ["b"]}],
        "jobs[1]: depends_on: no job before this one is the node b",
    ),
    "a word": (
        [{"task": "t", "depends_on": "everything"}],
        'jobs[0]: depends_on must be an array of nodes and ids, or "all", or "previous"',
    ),
    "an object of parents": (
        [{"task": "t", "depends_on": {}}],
        'jobs[0]: depends_on must be an array of nodes and ids, or "all", or "previous"',
    ),
    "a number alone": (
        [{"task": "t", "depends_on": 7}],
        'jobs[0]: depends_on must be an array of nodes and ids, or "all", or "previous"',
    ),
    "a null": (
        [{"task": "t", "depends_on": [None]}],
        "jobs[0]: depends_on: null is neither a node nor an id",
    ),
    "an array in the array": (
        [{"task": "t", "depends_on": [[1]]}],
        "jobs[0]: depends_on: [1] is neither a node nor an id",
    ),
    "half an id": (
        [{"task": "t", "depends_on": [1.5]}],
        "jobs[0]: depends_on: 1.5 is not the id of a job",
    ),
    "an id that none can be": (
        [{"task": "t", "depends_on": [0]}],
        "jobs[0]: depends_on: 0 is not the id of a job",
    ),
    "an id beyond all numbers": (
        [{"task": "t", "depends_on": [9223372036854775808]}],
        "jobs[0]: depends_on: 9223372036854775808 is not the id of a job",
    ),
    "an unknown policy": (
        [{"task": "t", "if_parent_fails": "wait"}],
        "jobs[0]: if_parent_fails must be cancel or run, not wait",
    ),
    "a bad time": ([{"task": "t", "run_at": "soon"}], "jobs[0]: run_at"),
    "a bad priority": ([{"task": "t", "priority": 101}], "jobs[0]: priority"),
    "the first of two": (
        [{"task": "t", "priority": 101}, {"task": ""}],
        "jobs[0]: priority must be from -100 to 100, not 101",
    ),
}


@pytest.mark.parametrize(("document", "words"), BAD.values(), ids=BAD)
def test_a_document_that_cannot_be_right_is_refused_in_words(conn, document, words):
    said = refused(conn, "RTV01", "enqueue_workflow", jobs=Jsonb(document))

    assert said.startswith(words)
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (0,)


def test_next_is_held_to_the_same_and_called_by_its_name(conn):
    enqueue(conn)
    pair = held(conn)

    for document, words in BAD.values():
        if document == []:
            continue
        said = refused(conn, "RTV01", "finish_job", **pair, next=Jsonb(document))
        assert said.startswith(words.replace("jobs", "next", 1))

    assert states(conn, pair["job_id"]) == ["RUNNING"]


@pytest.mark.parametrize("name", ["", "n" * 201, "a\nb"])
def test_a_workflow_has_a_name_that_can_be_read(conn, name):
    said = refused(conn, "RTV01", "enqueue_workflow", jobs=Jsonb([{"task": "t"}]), name=name)

    assert said == "name must have 1 to 200 characters and no control characters"


def test_a_workflow_is_there_as_a_whole_or_not_at_all(conn):
    enqueue(conn, unique_key="k")

    said = refused(
        conn,
        "RTC03",
        "enqueue_workflow",
        jobs=Jsonb([{"task": "t"}, {"task": "t", "depends_on": "all", "unique_key": "k"}]),
    )

    assert said == "jobs[1]: another live job of queue default holds its unique_key"
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (1,)
    assert conn.execute("select count(*) from rota.workflows").fetchone() == (0,)
    assert links(conn) == (0, 0)


def test_two_jobs_of_a_workflow_cannot_have_one_unique_key(conn):
    twins = [{"task": "t", "unique_key": "k"}] * 2

    said = refused(conn, "RTC03", "enqueue_workflow", jobs=Jsonb(twins))

    assert said == "jobs[1]: another live job of queue default holds its unique_key"


def test_the_rows_come_in_the_order_of_the_document(conn):
    rows = workflow(conn, {"unique_key": "b"}, X, {"unique_key": "a"}, after("x"))

    assert [row["node"] for row in rows] == [None, "x", None, None]
    assert [row["state"] for row in rows] == ["SCHEDULED"] * 3 + ["WAITING"]
    assert [row["job_id"] for row in rows] == sorted(row["job_id"] for row in rows)
    assert len({row["workflow_id"] for row in rows}) == 1


def test_a_job_of_a_workflow_gets_what_a_single_call_gives_it(conn):
    call(conn, "configure_queue", queue="mail", max_retries=9, timeout=HOUR)
    values = {
        "payload": {"n": 1},
        "queue": "mail",
        "run_at": "2200-01-01T00:00:00+00:00",
        "priority": 5,
        "max_retries": 0,
        "timeout": "00:00:07",
        "unique_key": "k",
        "headers": {"a": "b"},
        "key": "acme",
    }
    requests = [{}, {"queue": "mail"}, {"payload": None}, {"headers": {}}, values]

    for request in requests:
        (row,) = call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"} | request]))
        single = job(conn, row["job_id"])
        call(conn, "cancel_job", job_id=row["job_id"])
        for depends in ({}, {"depends_on": [enqueue(conn)]}):
            (row,) = workflow(conn, request | depends)
            made = job(conn, row["job_id"])
            call(conn, "cancel_job", job_id=row["job_id"])
            changes = {"id", "created_at", "scheduled_for", "state", "run_at"}
            assert {name: made[name] for name in made if name not in changes} == {
                name: single[name] for name in single if name not in changes
            }
            if "run_at" in request:
                assert made["scheduled_for"] == LATER


@pytest.mark.parametrize("payload", [None, [], 0, {"n": 1}, ""])
def test_a_child_is_claimed_with_its_payload_and_headers(conn, payload):
    one, child = graph(conn, {}, PREVIOUS | {"payload": payload, "headers": {"trace": "1"}})
    end(conn, one)

    (claimed,) = call(conn, "claim_next_job")

    assert (claimed["id"], claimed["payload"]) == (child, payload)
    assert (claimed["headers"], claimed["attempt"]) == ({"trace": "1"}, 1)


# -- parents that are there already


def test_existing_jobs_of_any_kind_are_parents(conn):
    done, plain, later = enqueue(conn), enqueue(conn), enqueue(conn, run_at=LATER)
    end(conn, done)
    first, waits = graph(conn, after(plain), after(later))
    pair = held(conn)

    (child,) = graph(conn, after(done, plain, later, waits))

    assert node(conn, child)["depends_on"] == [done, plain, later, waits]
    assert node(conn, child)["waits_for"] == [plain, later, waits]
    finish(conn, **pair)
    assert states(conn, first, child) == ["SCHEDULED", "WAITING"]
    call(conn, "cancel_job", job_id=later)
    assert states(conn, waits, child) == ["CANCELLED", "CANCELLED"]


def test_a_child_of_jobs_that_have_completed_does_not_wait(conn):
    one = enqueue(conn)
    end(conn, one)

    (row,) = workflow(conn, after(one))

    assert row["state"] == "SCHEDULED"
    assert node(conn, row["job_id"])["depends_on"] == [one]
    assert list(claim(conn)) == [row["job_id"]]


@pytest.mark.parametrize("ended", ["FAILED", "CANCELLED"])
def test_a_child_of_a_job_that_ended_otherwise_is_refused_or_runs(conn, ended):
    one = enqueue(conn)
    if ended == "FAILED":
        end(conn, one, error="x")
    else:
        call(conn, "cancel_job", job_id=one)
    parts = [{"task": "t"}, {"task": "t", "depends_on": [one]}]

    said = refused(conn, "RTC01", "enqueue_workflow", jobs=Jsonb(parts))

    assert said == f"jobs[1]: job {one}, on which it depends, did not complete"
    (row,) = workflow(conn, after(one) | RUN)
    assert row["state"] == "SCHEDULED"


def test_a_parent_that_there_is_not_is_refused(conn):
    one = enqueue(conn)
    parts = [{"task": "t", "depends_on": [999, one, 998]}]

    assert refused(conn, "RTN01", "enqueue_workflow", jobs=Jsonb(parts)) == "there is no job 998"


@pytest.mark.parametrize("over", [False, True], ids=["live", "deleted"])
def test_a_schedule_is_no_parent(conn, over):
    (row,) = call(conn, "schedule_job", task="t", every=HOUR, name="s")
    if over:
        call(conn, "delete_schedule", name="s")
    parts = [{"task": "t", "depends_on": [row["job_id"]]} | RUN]

    said = refused(conn, "RTV01", "enqueue_workflow", jobs=Jsonb(parts))

    assert said == f"job {row['job_id']} is a schedule, and no job can depend on one"


# -- the child's own time, key, lane, queue


def test_a_child_with_a_later_time_runs_then(conn, clock):
    at = datetime.now(UTC) + HOUR
    one, child, other = graph(
        conn, X, after("x") | {"run_at": at.isoformat()}, after("x") | {"run_at": "2001-01-01"}
    )
    end(conn, one)

    assert job(conn, child)["run_at"] == at
    assert list(claim(conn)) == [other]
    clock.advance(HOUR)
    assert list(claim(conn)) == [child]


def test_a_child_that_is_released_is_due_at_its_release(conn, clock):
    one, child = graph(conn, {}, PREVIOUS)
    clock.advance(HOUR)
    before = enqueue(conn)

    end(conn, one)

    assert job(conn, child)["run_at"] > job(conn, before)["run_at"]
    assert list(claim(conn)) == [before, child]


@pytest.mark.parametrize("way", ["settled", "cancelled", "retried", "enqueued"])
def test_a_child_with_a_key_gets_its_turn_when_it_is_released(conn, way):
    one, child = graph(conn, {}, PREVIOUS | RUN | {"key": "k"})
    assert conn.execute("select count(*) from rota.turns").fetchone() == (0,)

    if way == "cancelled":
        call(conn, "cancel_job", job_id=one)
    elif way == "retried":
        call(conn, "cancel_job", job_id=child)
        end(conn, one)
        call(conn, "retry_job", job_id=child)
    else:
        end(conn, one)
    if way == "enqueued":
        end(conn, child)
        (child,) = graph(conn, after(one) | {"key": "k"})

    assert list(claim(conn)) == [child]


def test_a_child_enters_the_order_of_its_key_when_it_is_released(conn):
    """Else a parent of the same key, behind it, would wait for ever."""
    call(conn, "configure_queue", queue="default", key_in_order=True)
    one = enqueue(conn, run_at=datetime.now(UTC) + HOUR / 3600)
    (child,) = graph(conn, after(one) | {"key": "k"})
    conn.execute("update rota.live_jobs set key = 'k' where id = %s", [one])
    conn.execute("update rota.live_jobs set run_at = now() where id = %s", [one])
    between = enqueue(conn, key="k")

    order = []
    while claimed := claim(conn):
        ((job_id, token),) = claimed.items()
        order.append(job_id)
        finish(conn, job_id, token)

    assert order == [one, between, child]


@pytest.mark.parametrize("limits", [{"max_running": 1}, {"key_max_running": 1}], ids=str)
def test_children_are_held_to_the_limits(conn, limits):
    call(conn, "configure_queue", queue="default", **limits)
    key = {"key": "k"}
    ids = graph(conn, X | key, after("x") | key, after("x") | key, ALL | key)

    for number in range(4):
        ((job_id, token),) = claim(conn).items()
        assert call(conn, "check_invariants") == []
        finish(conn, job_id, token)
        assert states(conn, *ids).count("COMPLETED") == number + 1


def test_a_limit_is_set_while_jobs_wait(conn):
    one, *_ = graph(conn, X, after("x"), after("x"))
    call(conn, "configure_queue", queue="default", max_running=1)
    end(conn, one)

    assert len(claim(conn)) == 1
    assert call(conn, "check_invariants") == []


def test_a_child_runs_by_its_priority(conn):
    one, child = graph(conn, {}, PREVIOUS | {"priority": 10})
    end(conn, one)
    enqueue(conn)
    other = enqueue(conn, priority=5)

    assert list(claim(conn, 1)) == [child]
    assert list(claim(conn, 1)) == [other]


def test_a_child_in_another_queue_runs_there(conn):
    one, child = graph(conn, {}, PREVIOUS | {"queue": "mail"})
    assert claim(conn, queue="mail") == {}
    end(conn, one)

    assert list(claim(conn, queue="mail")) == [child]


def test_a_child_of_a_paused_queue_waits_for_that_too(conn):
    one, child = graph(conn, {}, PREVIOUS | {"queue": "mail"})
    call(conn, "pause_queue", queue="mail")
    end(conn, one)

    assert states(conn, child) == ["SCHEDULED"]
    assert claim(conn, queue="mail") == {}
    call(conn, "resume_queue", queue="mail")
    assert list(claim(conn, queue="mail")) == [child]


def test_a_queue_in_which_jobs_wait_is_not_deleted(conn):
    one, _ = graph(conn, {}, PREVIOUS | {"queue": "mail"})
    call(conn, "configure_queue", queue="mail", max_retries=1)

    assert refused(conn, "RTC01", "delete_queue", queue="mail") == "queue mail has live jobs"
    end(conn, one, error="x")
    call(conn, "delete_queue", queue="mail")


def test_a_queue_that_was_deleted_has_its_child_claimed(conn):
    """Its lane is marked; who releases the child has it looked at again."""
    one, child, rest = graph(conn, {}, PREVIOUS | {"queue": "mail"}, PREVIOUS | {"queue": "mail"})
    call(conn, "cancel_job", job_id=child)
    call(conn, "configure_queue", queue="mail", max_retries=1)
    call(conn, "delete_queue", queue="mail")
    call(conn, "retry_job", job_id=child)
    assert states(conn, child, rest) == ["WAITING", "WAITING"]
    end(conn, one)

    ((job_id, token),) = claim(conn, queue="mail").items()
    finish(conn, job_id, token)
    assert list(claim(conn, queue="mail")) == [rest]


def test_a_job_that_waits_holds_its_unique_key(conn):
    one, child = graph(conn, {}, PREVIOUS | {"unique_key": "k"})

    (row,) = call(conn, "enqueue_job", task="t", unique_key="k")
    assert row == {"job_id": child, "created": False}
    (row,) = call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t", "unique_key": "k"}]))
    assert row == {"job_id": child, "created": False}
    end(conn, one, error="x")
    (row,) = call(conn, "enqueue_job", task="t", unique_key="k")
    assert row["created"]


def test_a_job_that_waits_is_not_replaced(conn):
    """Nor is it where the key is held for a time: the new job waits for nobody."""
    one, child = graph(conn, {}, PREVIOUS | {"unique_key": "k", "payload": 1})

    (row,) = call(conn, "enqueue_job", task="t", unique_key="k", replace=True, payload=Jsonb(2))

    assert row["created"] and row["job_id"] != child
    assert (job(conn, child)["payload"], job(conn, child)["state"]) == (1, "WAITING")
    end(conn, one)
    assert sorted(claim(conn)) == [child, row["job_id"]]


# -- what people look at


def test_a_job_that_waits_has_no_time_and_is_not_counted_as_scheduled(conn):
    _, child = graph(conn, {"run_at": LATER.isoformat()}, PREVIOUS)

    assert job(conn, child)["run_at"] is None
    assert conn.execute("select scheduled, due from rota.queue_status").fetchall() == [(1, 0)]
    assert call(conn, "next_due_in", queues=["default"], within=HOUR) == [{"next_due_in": None}]


def test_a_workflow_has_the_worst_state_that_any_of_its_jobs_came_to(conn):
    rows = workflow(conn, X, Y, after("x"), ALL | RUN)
    x, y, z, last = (row["job_id"] for row in rows)
    whole = rows[0]["workflow_id"]
    counts = ("waiting", "scheduled", "running", "completed", "failed", "cancelled")

    def told():
        row = status(conn, whole)
        return row["state"], *(row[name] for name in counts)

    assert told() == ("RUNNING", 2, 2, 0, 0, 0, 0)
    pair = held(conn)
    assert told() == ("RUNNING", 2, 1, 1, 0, 0, 0)
    finish(conn, **pair, error="x")
    assert told() == ("RUNNING", 1, 1, 0, 0, 1, 1)
    end(conn, y)
    end(conn, last)
    assert told() == ("FAILED", 0, 0, 0, 2, 1, 1)
    call(conn, "retry_job", job_id=x)
    end(conn, x)
    call(conn, "cancel_job", job_id=z)
    assert told() == ("CANCELLED", 0, 0, 0, 3, 0, 1)
    call(conn, "retry_workflow", workflow_id=whole)
    end(conn, z)
    assert told() == ("COMPLETED", 0, 0, 0, 4, 0, 0)


def test_a_child_is_told_what_its_parents_came_to(conn):
    x, y, z, child = graph(conn, X, Y, Z, after("x", "y", "z") | RUN)
    tokens = claim(conn)
    call(conn, "finish_job", job_id=x, token=tokens[x], error="a try", retry_in=timedelta(0))
    finish(conn, x, claim(conn)[x], result=Jsonb({"n": 1}))
    finish(conn, y, tokens[y], "boom")

    assert call(conn, "parent_results", job_id=child) == [
        {"job_id": x, "node": "x", "state": "COMPLETED", "result": {"n": 1}, "error": None},
        {"job_id": y, "node": "y", "state": "FAILED", "result": None, "error": "boom"},
        {"job_id": z, "node": "z", "state": "RUNNING", "result": None, "error": None},
    ]
    assert call(conn, "parent_results", job_id=x) == []
    assert call(conn, "parent_results", job_id=enqueue(conn)) == []
    assert refused(conn, "RTN01", "parent_results", job_id=99) == "there is no job 99"


# -- cancel


def test_who_cancels_a_job_that_waits_cancels_what_depends_on_it(conn):
    one, child, below, finally_ = graph(conn, {}, Y | PREVIOUS, after("y"), after("y") | RUN)

    (row,) = call(conn, "cancel_job", job_id=child, reason="enough")

    assert (row["state"], row["run_at"]) == ("CANCELLED", None)
    assert states(conn, one, child, below, finally_) == [
        *("SCHEDULED", "CANCELLED", "CANCELLED", "SCHEDULED")
    ]
    assert job(conn, child)["cancel_reason"] == "enough"
    assert node(conn, child)["ended_by"] is None
    assert node(conn, below)["ended_by"] == child
    end(conn, one)
    assert states(conn, child) == ["CANCELLED"]
    (again,) = call(conn, "cancel_job", job_id=child)
    assert again["state"] == "CANCELLED"


def test_who_cancels_a_job_that_is_scheduled_cancels_what_depends_on_it(conn):
    one, child, below, finally_ = graph(conn, {}, Y | PREVIOUS, after("y"), ALL | RUN)

    call(conn, "cancel_job", job_id=one)

    assert states(conn, one, child, below, finally_) == ["CANCELLED"] * 3 + ["SCHEDULED"]


def test_a_running_job_that_is_asked_to_end_is_waited_for(conn):
    one, child = graph(conn, {}, PREVIOUS)
    pair = held(conn)

    (row,) = call(conn, "cancel_job", job_id=one)

    assert (row["state"], states(conn, child)) == ("RUNNING", ["WAITING"])
    finish(conn, **pair)
    assert states(conn, one, child) == ["CANCELLED", "CANCELLED"]


def test_all_jobs_that_a_filter_names_are_cancelled_those_that_wait_too(conn):
    one, child, other = graph(conn, X, after("x") | {"task": "u"}, after("x") | RUN)
    waiting = Jsonb({"state": "WAITING"})

    (told,) = call(conn, "cancel_jobs", filter=waiting)
    assert (told["matched"], told["changed"]) == (2, 0)
    (told,) = call(conn, "cancel_jobs", filter=Jsonb({"state": "WAITING", "task": "u"}))
    assert told["matched"] == 1
    (told,) = call(conn, "cancel_jobs", filter=waiting, dry_run=False)
    assert (told["matched"], told["changed"]) == (2, 2)
    assert states(conn, one, child, other) == ["SCHEDULED", "CANCELLED", "CANCELLED"]
    said = refused(conn, "RTV01", "retry_jobs", filter=waiting)
    assert said == "filter: state must be FAILED or CANCELLED"


def test_a_bulk_leaves_what_its_filter_does_not_name_to_its_policy(conn):
    one, child, finally_ = graph(conn, X | {"task": "u"}, after("x"), ALL | RUN)

    (told,) = call(conn, "cancel_jobs", filter=Jsonb({"task": "u"}), dry_run=False)

    assert told["changed"] == 1
    assert states(conn, one, child, finally_) == ["CANCELLED", "CANCELLED", "SCHEDULED"]
    assert node(conn, child)["ended_by"] == one


def test_a_workflow_is_cancelled_with_all_that_is_left_of_it(conn):
    rows = workflow(conn, X, Y, {}, after("x", "y"), after("x") | RUN, ALL | RUN)
    ids = [row["job_id"] for row in rows]
    whole = {"workflow_id": rows[0]["workflow_id"]}
    outside, outside_too = graph(conn, after(ids[3]), after(ids[5]) | RUN)
    tokens = claim(conn, 2)
    finish(conn, ids[0], tokens[ids[0]])

    (told,) = call(conn, "cancel_workflow", **whole, reason="enough")

    assert told == {"cancel_workflow": 4}
    assert states(conn, *ids) == ["COMPLETED", "RUNNING", *["CANCELLED"] * 4]
    assert job(conn, ids[5])["cancel_reason"] == "enough"
    assert job(conn, ids[1])["cancel_requested_at"]
    assert states(conn, outside, outside_too) == ["CANCELLED", "SCHEDULED"]
    assert status(conn, whole["workflow_id"])["cancelled_at"]
    assert call(conn, "cancel_workflow", **whole) == [{"cancel_workflow": 0}]
    finish(conn, ids[1], tokens[ids[1]])
    assert states(conn, ids[1]) == ["CANCELLED"]
    assert links(conn) == (0, 0)
    assert conn.execute(
        "select function, affected, details ->> 'reason' from rota.actions order by action_id"
    ).fetchall() == [("cancel_workflow", 5, "enough"), ("cancel_workflow", 1, None)]


@pytest.mark.parametrize("function", ["cancel_workflow", "retry_workflow"])
def test_a_workflow_that_there_is_not_is_refused(conn, function):
    one = enqueue(conn)

    for number in (one, 99, None):
        said = refused(conn, "RTN01", function, workflow_id=number)
        assert said == f"there is no workflow {'null' if number is None else number}"


# -- retry


def test_a_retry_brings_back_what_went_down_with_the_job(conn):
    one, child, below, other = graph(conn, X, Y | after("x"), after("y"), after("x") | RUN)
    end(conn, one, error="x")
    end(conn, other)

    (row,) = call(conn, "retry_job", job_id=one)

    assert row["state"] == "SCHEDULED" and row["run_at"]
    assert states(conn, one, child, below, other) == [
        *("SCHEDULED", "WAITING", "WAITING", "COMPLETED")
    ]
    assert [node(conn, some)["ended_by"] for some in (child, below)] == [None, None]
    for some in (one, child, below):
        ((claimed, token),) = claim(conn).items()
        assert claimed == some
        finish(conn, some, token)
    assert claim(conn) == {}


def test_a_job_below_one_that_failed_is_not_retried_alone(conn):
    one, child, below = graph(conn, {}, PREVIOUS, PREVIOUS)
    end(conn, one, error="x")

    said = refused(conn, "RTC01", "retry_job", job_id=child)
    assert said == f"job {child} depends on job {one}, which did not complete; retry that one"
    said = refused(conn, "RTC01", "retry_job", job_id=below)
    assert said == f"job {below} depends on job {child}, which did not complete; retry that one"
    assert states(conn, one, child, below) == ["FAILED", "CANCELLED", "CANCELLED"]


def test_a_job_that_was_cancelled_comes_back_waiting_where_a_parent_lives(conn):
    one, child = graph(conn, {}, PREVIOUS)
    call(conn, "cancel_job", job_id=child)
    (row,) = call(conn, "retry_job", job_id=child)
    assert (row["state"], row["run_at"]) == ("WAITING", None)

    call(conn, "cancel_job", job_id=child)
    end(conn, one)
    (row,) = call(conn, "retry_job", job_id=child)
    assert row["state"] == "SCHEDULED"
    assert list(claim(conn)) == [child]


def test_of_two_failed_parents_the_last_one_that_is_retried_brings_the_child_back(conn):
    x, y, child, below = graph(conn, X, Y, Z | after("x", "y"), after("z"))
    for one, token in claim(conn).items():
        finish(conn, one, token, "boom")
    assert node(conn, child)["ended_by"] == x

    call(conn, "retry_job", job_id=x)
    assert states(conn, x, y, child, below) == ["SCHEDULED", "FAILED", "CANCELLED", "CANCELLED"]
    assert node(conn, child)["ended_by"] == y
    end(conn, x)
    call(conn, "retry_job", job_id=y)
    assert states(conn, y, child, below) == ["SCHEDULED", "WAITING", "WAITING"]
    for one in (y, child, below):
        ((claimed, token),) = claim(conn).items()
        assert claimed == one
        finish(conn, one, token)


def test_a_parent_that_fails_again_takes_the_child_down_again(conn):
    x, y, child = graph(conn, X, Y, after("x", "y"))
    end(conn, x, error="x")
    call(conn, "retry_job", job_id=x)
    assert states(conn, child) == ["WAITING"]

    end(conn, y, error="x")

    assert (states(conn, child), node(conn, child)["ended_by"]) == (["CANCELLED"], y)
    end(conn, x)
    call(conn, "retry_job", job_id=y)
    end(conn, y)
    assert list(claim(conn)) == [child]


def test_what_ran_because_a_parent_failed_does_not_run_again(conn):
    one, finally_ = graph(conn, {}, PREVIOUS | RUN)
    end(conn, one, error="x")
    end(conn, finally_)

    call(conn, "retry_job", job_id=one)
    end(conn, one)

    assert states(conn, one, finally_) == ["COMPLETED", "COMPLETED"]
    assert claim(conn) == {}


def test_what_waits_to_run_for_another_parent_keeps_waiting_over_a_retry(conn):
    x, y, finally_ = graph(conn, X, Y, after("x", "y") | RUN)
    end(conn, x, error="x")
    call(conn, "retry_job", job_id=x)
    assert node(conn, finally_)["waits_for"] == [y]  # the edge from x was settled
    end(conn, y)

    assert states(conn, x, finally_) == ["SCHEDULED", "SCHEDULED"]


def test_a_job_whose_parent_fails_by_run_is_retried_alone(conn):
    one, child = graph(conn, {}, PREVIOUS | RUN)
    end(conn, one, error="x")
    end(conn, child, error="x")

    (row,) = call(conn, "retry_job", job_id=child)

    assert row["state"] == "SCHEDULED"
    assert states(conn, one) == ["FAILED"]


def test_a_retry_that_meets_a_taken_unique_key_brings_nothing_back(conn):
    one, child = graph(conn, {}, PREVIOUS | {"unique_key": "k"})
    end(conn, one, error="x")
    other = enqueue(conn, unique_key="k")

    said = refused(conn, "RTC03", "retry_job", job_id=one)

    assert said == f"job {child} cannot be retried: another live job holds its unique_key"
    assert states(conn, one, child) == ["FAILED", "CANCELLED"]
    call(conn, "cancel_job", job_id=other)
    call(conn, "retry_job", job_id=one)
    assert states(conn, one, child) == ["SCHEDULED", "WAITING"]


def test_a_workflow_is_retried_but_for_what_has_completed(conn):
    rows = workflow(conn, X, Y, after("x", "y"), ALL | RUN)
    x, y, child, last = (row["job_id"] for row in rows)
    whole = {"workflow_id": rows[0]["workflow_id"]}
    for one, token in claim(conn).items():
        finish(conn, one, token, "boom" if one == x else None)
    end(conn, last)
    call(conn, "cancel_workflow", **whole)

    assert call(conn, "retry_workflow", **whole) == [{"retry_workflow": 2}]

    assert states(conn, x, y, child, last) == ["SCHEDULED", "COMPLETED", "WAITING", "COMPLETED"]
    assert status(conn, whole["workflow_id"])["cancelled_at"] is None
    assert call(conn, "retry_workflow", **whole) == [{"retry_workflow": 0}]
    end(conn, x)
    end(conn, child)
    assert status(conn, whole["workflow_id"])["state"] == "COMPLETED"


def test_a_workflow_is_retried_below_a_job_of_another_that_failed(conn):
    """It cannot come back; the rest of it does."""
    (outside,) = graph(conn, {})
    rows = workflow(conn, after(outside), {})
    below, beside = (row["job_id"] for row in rows)
    for one, token in claim(conn).items():
        finish(conn, one, token, "boom")

    assert call(conn, "retry_workflow", workflow_id=rows[0]["workflow_id"]) == [
        {"retry_workflow": 1}
    ]

    assert states(conn, outside, below, beside) == ["FAILED", "CANCELLED", "SCHEDULED"]
    call(conn, "retry_job", job_id=outside)
    assert states(conn, below) == ["WAITING"]


def test_all_jobs_that_a_filter_names_are_retried_with_what_went_down_with_them(conn):
    x, child, y, other = graph(conn, X, after("x"), Y, after("y"))
    for one, token in claim(conn).items():
        finish(conn, one, token, "boom")
    failed = Jsonb({"state": "FAILED"})

    (told,) = call(conn, "retry_jobs", filter=failed)
    assert (told["matched"], told["changed"]) == (2, 0)
    (told,) = call(conn, "retry_jobs", filter=failed, dry_run=False)

    assert told["changed"] == 4
    assert states(conn, x, child, y, other) == ["SCHEDULED", "WAITING", "SCHEDULED", "WAITING"]


def test_a_bulk_comes_to_an_end_where_jobs_cannot_come_back_alone(conn):
    """Those would be met again by each call of who calls until nothing more is changed."""
    _, *children = graph(conn, {}, PREVIOUS, PREVIOUS, PREVIOUS)
    end(conn, children[0] - 1, error="x")
    plain = enqueue(conn)
    call(conn, "cancel_job", job_id=plain)

    (told,) = call(
        conn, "retry_jobs", filter=Jsonb({"state": "CANCELLED"}), max_jobs=1, dry_run=False
    )

    assert (told["changed"], states(conn, plain)) == (1, ["SCHEDULED"])


def test_an_operator_retries_a_parent_and_its_child_at_once(conn):
    one, child, below = graph(conn, {}, PREVIOUS, PREVIOUS)
    end(conn, one, error="x")
    ids = Jsonb({"ids": [below, one, child]})

    call(conn, "retry_jobs", filter=ids, dry_run=False)

    assert states(conn, one, child, below) == ["SCHEDULED", "WAITING", "WAITING"]


# -- next


def test_what_follows_a_finish_is_added_with_it(conn):
    one = enqueue(conn)
    parts = [{"task": "a", "node": "a"}, {"task": "b", "depends_on": ["a"]}, {"task": "c"}]

    (row,) = call(conn, "finish_job", **held(conn), result=Jsonb({"n": 7}), next=Jsonb(parts))

    assert row == {"job_id": one, "state": "COMPLETED", "run_at": None}
    rows = conn.execute(
        "select job_id, task, state, depends_on from rota.workflow_nodes order by job_id"
    ).fetchall()
    assert [row[1:3] for row in rows] == [
        *(("a", "SCHEDULED"), ("b", "WAITING"), ("c", "SCHEDULED"))
    ]
    assert [row[3] for row in rows] == [[one], [rows[0][0]], [one]]
    (told,) = call(conn, "parent_results", job_id=rows[2][0])
    assert (told["job_id"], told["state"], told["result"]) == (one, "COMPLETED", {"n": 7})


NEXT = Jsonb([{"task": "n"}])


def added(conn):
    return conn.execute("select count(*) from rota.jobs where task = 'n'").fetchone()[0]


@pytest.mark.parametrize("how", ["fails", "fails for good", "is asked to end", "is late"])
def test_nothing_follows_a_finish_that_does_not_succeed(conn, clock, how):
    one = enqueue(conn)
    pair = held(conn)
    error = {"error": "x", "retry": how == "fails"} if "fails" in how else {}
    if how == "is asked to end":
        call(conn, "cancel_job", job_id=one)
    if how == "is late":
        clock.advance(HOUR)
        call(conn, "recover_jobs")
        said = refused(conn, "RTC02", "finish_job", **pair, next=NEXT)
        assert said == f"job {one} is not held under this token"
    else:
        call(conn, "finish_job", **pair, **error, next=NEXT)

    assert added(conn) == 0
    assert conn.execute("select count(*) from rota.workflows").fetchone() == (0,)


@pytest.mark.parametrize("following", [NEXT, Jsonb([{"task": "n", "depends_on": []}])], ids=str)
def test_a_finish_that_is_repeated_adds_nothing(conn, following):
    enqueue(conn)
    pair = held(conn)
    first = call(conn, "finish_job", **pair, next=following)

    assert call(conn, "finish_job", **pair, next=following) == first
    assert call(conn, "finish_job", **pair) == first
    assert added(conn) == 1
    enqueue(conn, unique_key="k")
    taken = Jsonb([{"task": "n", "unique_key": "k"}])
    assert call(conn, "finish_job", **pair, next=taken) == first


@pytest.mark.parametrize(
    ("following", "code", "words"),
    [
        (
            {"unique_key": "k"},
            "RTC03",
            "jobs[0]: another live job of queue default holds its unique_key",
        ),
        ({"depends_on": [999]}, "RTN01", "there is no job 999"),
        ({"task": ""}, "RTV01", "next[0]: task"),
        ({"node": "a", "depends_on": ["a"]}, "RTV01", "next[0]: depends_on: no job before"),
    ],
    ids=str,
)
def test_a_finish_whose_next_is_refused_has_not_been(conn, following, code, words):
    call(conn, "enqueue_job", task="t", unique_key="k", run_at=LATER)
    one, child = graph(conn, {}, PREVIOUS)
    pair = held(conn)
    parts = Jsonb([{"task": "n"} | following])

    said = refused(conn, code, "finish_job", **pair, result=Jsonb(1), next=parts)

    assert said.startswith(words)
    assert states(conn, one, child) == ["RUNNING", "WAITING"]
    assert finish(conn, **pair) == "COMPLETED"


def test_what_follows_may_depend_on_others_and_on_the_job_itself(conn):
    one, child, other = graph(conn, {}, PREVIOUS, {})
    tokens = claim(conn)
    failed_one = enqueue(conn)
    end(conn, failed_one, error="x")
    parts = [
        {"task": "n", "depends_on": [one]},
        {"task": "n", "depends_on": [child, other]},
        {"task": "n", "depends_on": [failed_one], "if_parent_fails": "run"},
        {"task": "n", "depends_on": "all"},
    ]

    call(conn, "finish_job", job_id=one, token=tokens[one], next=Jsonb(parts))

    rows = conn.execute(
        "select w.state, w.depends_on, w.job_id from rota.workflow_nodes as w"
        " where w.task = 'n' order by w.job_id"
    ).fetchall()
    assert [row[:2] for row in rows[:3]] == [
        ("SCHEDULED", [one]),
        ("WAITING", [child, other]),
        ("SCHEDULED", [failed_one]),
    ]
    assert rows[3][:2] == ("WAITING", [row[2] for row in rows[:3]])


def test_children_wait_until_the_last_of_many_finishes_whatever_follows_it(conn):
    """What a job adds by its end does not take its place: who waits for the job goes on."""
    _, child = graph(conn, {}, PREVIOUS)

    call(conn, "finish_job", **held(conn), next=NEXT)

    assert states(conn, child) == ["SCHEDULED"]
    assert len(claim(conn)) == 2


def test_each_run_of_a_schedule_adds_what_follows_it(conn, clock):
    call(conn, "schedule_job", task="t", every=HOUR, name="s", priority=1)
    for number in range(2):
        (row,) = call(conn, "finish_job", **held(conn), next=NEXT)
        assert (row["state"], added(conn)) == ("SCHEDULED", number + 1)
        clock.advance(HOUR)

    assert conn.execute("select depends_on from rota.workflow_nodes").fetchall() == [([],)] * 2


def test_the_last_run_of_a_schedule_adds_what_follows_it(conn):
    call(conn, "schedule_job", task="t", every=HOUR, name="s", max_runs=1)

    (row,) = call(conn, "finish_job", **held(conn), next=NEXT)

    assert (row["state"], added(conn)) == ("COMPLETED", 1)


def test_a_schedule_whose_next_depends_on_others(conn):
    other = enqueue(conn, run_at=LATER)
    (schedule,) = call(conn, "schedule_job", task="t", every=HOUR, name="s")
    pair = held(conn)
    parts = [{"task": "n", "depends_on": [schedule["job_id"]]}]
    said = refused(conn, "RTV01", "finish_job", **pair, next=Jsonb(parts))
    assert said == f"job {schedule['job_id']} is a schedule, and no job can depend on one"

    parts = [{"task": "n", "depends_on": [other]}]
    call(conn, "finish_job", **pair, next=Jsonb(parts))

    assert conn.execute("select depends_on from rota.workflow_nodes").fetchall() == [([other],)]


def test_no_jobs_follow_where_next_is_empty(conn):
    enqueue(conn)

    call(conn, "finish_job", **held(conn), next=Jsonb([]))

    assert conn.execute("select count(*) from rota.workflows").fetchone() == (0,)


# -- upkeep


def leave_edge(conn, outcome):
    """Leave an edge whose parent has ended under functions that did not look for it."""
    one, child, finally_, below = graph(conn, X, Y | after("x"), after("x") | RUN, after("y"))
    conn.execute("update rota.live_jobs set linked = null where id = %s", [one])
    pair = held(conn)
    finish(conn, **pair, error=None if outcome == "COMPLETED" else "x")
    if outcome == "gone":
        conn.execute("delete from rota.finished_jobs where id = %s", [one])
        conn.execute("delete from rota.attempts where job_id = %s", [one])
    assert states(conn, child, finally_, below) == ["WAITING"] * 3
    assert {row["invariant"][:2] for row in call(conn, "check_invariants")} == {"W3"}
    return child, finally_, below


@pytest.mark.parametrize("outcome", ["COMPLETED", "FAILED", "gone"])
def test_maintain_settles_edges_whose_parent_has_ended(conn, outcome):
    child, finally_, below = leave_edge(conn, outcome)

    call(conn, "maintain")

    ended = ["CANCELLED", "SCHEDULED", "CANCELLED"]
    assert states(conn, child, finally_, below) == (
        ended if outcome == "FAILED" else ["SCHEDULED", "SCHEDULED", "WAITING"]
    )
    assert call(conn, "check_invariants") == []


def test_maintain_waits_for_nobody_who_holds_what_is_to_be_settled(conn, connect):
    child, *_ = leave_edge(conn, "COMPLETED")
    holder = connect(autocommit=False)
    holder.execute("select from rota.job_waits where job_id = %s for update", [child])

    conn.execute("set lock_timeout = '1ms'")
    call(conn, "maintain")
    assert states(conn, child) == ["WAITING"]
    holder.rollback()
    call(conn, "maintain")

    assert states(conn, child) == ["SCHEDULED"]


def drop_history(conn, clock):
    """Let retention take what has ended so far."""
    call(conn, "configure_retention", retention=7 * DAY)
    clock.advance(60 * DAY)
    call(conn, "maintain")


def test_a_parent_that_is_forgotten_holds_nobody_up(conn, clock):
    done, failed, later = graph(conn, X, Y, {"run_at": LATER.isoformat()})
    child, other = graph(conn, after(done, later), after(later))
    for one, token in claim(conn).items():
        finish(conn, one, token, "x" if one == failed else None)
    call(conn, "cancel_job", job_id=child)
    call(conn, "retry_job", job_id=child)
    drop_history(conn, clock)
    assert states(conn, done, failed, child) == [None, None, "WAITING"]

    assert [row["state"] for row in call(conn, "parent_results", job_id=child)] == [
        *(None, "SCHEDULED")
    ]
    assert node(conn, done)["state"] is None
    call(conn, "cancel_job", job_id=child)
    call(conn, "retry_job", job_id=child)
    assert node(conn, child)["waits_for"] == [later]
    assert (
        refused(
            conn, "RTN01", "enqueue_workflow", jobs=Jsonb([{"task": "t", "depends_on": [done]}])
        )
        == f"there is no job {done}"
    )
    call(conn, "cancel_job", job_id=later)
    assert states(conn, child, other) == ["CANCELLED"] * 2


def test_a_child_whose_failed_parent_is_forgotten_can_be_retried(conn, clock):
    one, child = graph(conn, {}, PREVIOUS)
    end(conn, one, error="x")
    conn.execute("delete from rota.finished_jobs where id = %s", [one])

    (row,) = call(conn, "retry_job", job_id=child)

    assert row["state"] == "SCHEDULED"


def test_a_workflow_is_forgotten_when_the_last_of_its_jobs_is(conn, clock):
    first = workflow(conn, {}, PREVIOUS)
    second = workflow(conn, {}, {"run_at": LATER.isoformat()})
    end(conn, first[0]["job_id"], error="x")
    end(conn, second[0]["job_id"])

    drop_history(conn, clock)
    call(conn, "maintain")

    assert conn.execute("select id from rota.workflows").fetchall() == [(second[0]["workflow_id"],)]
    assert conn.execute("select job_id from rota.workflow_jobs order by 1").fetchall() == [
        (row["job_id"],) for row in second
    ]
    assert status(conn, second[0]["workflow_id"])["state"] == "RUNNING"


def test_a_young_workflow_of_which_no_job_is_left_stays_for_a_while(conn):
    workflow(conn, {})
    end(conn, 0)
    conn.execute("delete from rota.live_jobs")

    call(conn, "maintain")

    assert conn.execute("select count(*) from rota.workflows").fetchone() == (1,)


# -- who may


def test_a_child_s_parents_may_be_of_queues_that_its_worker_does_not_see(conn, connect, new_role):
    name = new_role("rota_test_wf_walled", "rota_worker", "rota_reader", "rota_operator")
    rows = workflow(
        conn,
        {"queue": "other", "node": "x"},
        {"queue": "own", "depends_on": ["x"]},
        {"queue": "own", "depends_on": "previous"},
    )
    x, child, below = (row["job_id"] for row in rows)
    whole = {"workflow_id": rows[0]["workflow_id"]}
    call(conn, "wall", principal=name, queue_pattern="own")
    walled = connect(role=name)
    ((_, token),) = claim(conn, queue="other").items()
    finish(conn, x, token, result=Jsonb("told"))

    (told,) = call(walled, "parent_results", job_id=child)
    assert (told["job_id"], told["state"], told["result"]) == (x, "COMPLETED", "told")
    said = refused(walled, "RTN01", "parent_results", job_id=x)
    assert said == f"there is no job {x}"
    (seen,) = walled.execute("select waiting, scheduled, completed from rota.workflow_status")
    assert seen == (1, 1, 0)
    assert walled.execute("select count(*) from rota.workflow_nodes").fetchone() == (2,)
    for function in ("cancel_workflow", "retry_workflow"):
        said = refused(walled, "RTN01", function, **whole)
        assert said == f"there is no workflow {whole['workflow_id']}"
    (row,) = call(walled, "claim_next_job", queues=["own"])
    assert row["id"] == child
    call(walled, "finish_job", job_id=child, token=row["token"], error="x", retry=False)
    assert states(conn, below) == ["CANCELLED"]
    call(walled, "retry_job", job_id=child)
    assert states(conn, child, below) == ["SCHEDULED", "WAITING"]


def test_a_walled_job_s_end_settles_what_lies_beyond_the_wall(conn, connect, new_role):
    name = new_role("rota_test_wf_walled_2", "rota_worker", "rota_producer", "rota_operator")
    x, beyond = graph(conn, {"queue": "own", "node": "x"}, {"queue": "other", "depends_on": ["x"]})
    theirs = enqueue(conn, queue="other")
    call(conn, "wall", principal=name, queue_pattern="own")
    walled = connect(role=name)
    (row,) = call(walled, "claim_next_job", queues=["own"])
    pair = {"job_id": x, "token": row["token"]}

    parts = Jsonb([{"task": "n", "queue": "own", "depends_on": [theirs]}])
    assert refused(walled, "RTN01", "finish_job", **pair, next=parts) == f"there is no job {theirs}"
    with sqlstate("42501"):
        call(walled, "finish_job", **pair, next=Jsonb([{"task": "n", "queue": "other"}]))
    assert states(conn, x) == ["RUNNING"]
    call(walled, "finish_job", **pair)

    assert states(conn, x, beyond) == ["COMPLETED", "SCHEDULED"]


def test_a_bulk_retry_passes_by_a_job_whose_unique_key_is_taken_and_what_depends_on_it(conn):
    one, child, below = graph(conn, {}, PREVIOUS | {"unique_key": "k"}, PREVIOUS)
    call(conn, "cancel_job", job_id=one)
    enqueue(conn, unique_key="k")

    (bulk,) = call(conn, "retry_jobs", filter=Jsonb({"ids": [one]}), dry_run=False)

    assert bulk["changed"] == 1
    assert states(conn, one, child, below) == ["SCHEDULED", "CANCELLED", "CANCELLED"]
    assert conn.execute("select * from rota.check_invariants()").fetchall() == []


def test_of_two_with_one_unique_key_that_went_down_together_the_first_comes_back(conn):
    (one,) = graph(conn, {})
    (first,) = graph(conn, {"depends_on": [one], "unique_key": "k"})
    call(conn, "cancel_job", job_id=first)
    (second,) = graph(conn, {"depends_on": [one], "unique_key": "k"})
    conn.execute("update rota.workflow_jobs set ended_by = %s where job_id = %s", [one, first])
    call(conn, "cancel_job", job_id=one)

    call(conn, "retry_job", job_id=one)

    assert states(conn, one, first, second) == ["SCHEDULED", "WAITING", "CANCELLED"]
    assert conn.execute("select * from rota.check_invariants()").fetchall() == []


def test_a_document_of_a_few_bytes_cannot_ask_for_more_than_a_million_edges(conn):
    jobs = [{"task": "t", "depends_on": "all"}] * 1415

    with pytest.raises(psycopg.Error) as refused:
        call(conn, "enqueue_workflow", jobs=Jsonb(jobs))

    assert refused.value.sqlstate == "RTV01"
    assert refused.value.diag.message_primary == (
        "jobs[1414]: 1000405 edges lead to the jobs up to here, and at most 1000000 may"
    )


def test_who_ends_a_parent_by_a_snapshot_older_than_its_child_is_refused(conn, connect):
    parent = enqueue(conn)
    pair = held(conn)
    graph(conn, {"depends_on": [parent]})
    old = connect(autocommit=False)
    old.execute("set transaction isolation level repeatable read")
    old.execute("select count(*) from rota.live_jobs")
    (child,) = graph(conn, {"depends_on": [parent]})

    with pytest.raises(psycopg.errors.SerializationFailure):
        call(old, "finish_job", **pair)
    old.rollback()
    call(conn, "finish_job", **pair)

    assert states(conn, parent, child) == ["COMPLETED", "SCHEDULED"]
