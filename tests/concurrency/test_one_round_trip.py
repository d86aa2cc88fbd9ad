"""A worker of one connection: it finishes a job and claims the next in one round trip.

Up to a Sync, statements are one transaction, and a psycopg pipeline in autocommit mode ends with
its only one. Statements in one message of the simple protocol, such as psql's "\\;" sends, are one
transaction too. The finish goes first: a claim waits for no row, so nothing is waited for while
the finished job's row is held, and no order of others' locks makes a deadlock of it. Two CTEs of
one statement would do, but which of them is run first, or at all, is the planner's choice.
"""

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from uuid import uuid4

import psycopg
import pytest
from psycopg import ClientCursor, pq

from rota.db.gateway import call
from tests.concurrency.sessions import Call, forget_cursors, sqlstate
from tests.waiting import wait_until

FINISH = "select * from rota.finish_jobs(%(ids)s, %(tokens)s)"
FINISH_ONE = "select * from rota.finish_job(%(id)s, %(token)s)"
CLAIM = "select id, token from rota.claim_next_job(worker => 'w')"


def enqueue(conn, count=1, **arguments):
    return [
        call(conn, "enqueue_job", **{"task": "t", **arguments})[0]["job_id"] for _ in range(count)
    ]


def claim(conn):
    """Claim one job; return it and its token."""
    forget_cursors(conn)
    return conn.execute(CLAIM).fetchone()


def pair(held):
    job_id, token = held
    return {"ids": [job_id], "tokens": [token], "id": job_id, "token": token}


def in_a_pipeline(conn, held, finish=FINISH, claim=CLAIM):
    """Finish and claim, in the way that the README recommends to users of psycopg.

    Nothing is prepared. If the finish fails when psycopg was about to prepare the claim, the server
    skips that and psycopg (3.3.9) takes it for done: the claim fails on this connection for ever.
    """
    with conn.pipeline():
        finished = conn.execute(finish, pair(held), prepare=False)
        claimed = conn.execute(claim, prepare=False)
    return finished.fetchall(), claimed.fetchall()


def in_one_message(conn, held, finish=FINISH, claim=CLAIM):
    """Finish and claim by the simple protocol, which psql and drivers without pipelines have."""
    with ClientCursor(conn) as cursor:
        cursor.execute(f"{finish}; {claim}", pair(held))
        finished = cursor.fetchall()
        cursor.nextset()
        return finished, cursor.fetchall()


def one_by_one(conn, held):
    return conn.execute(FINISH, pair(held)).fetchall(), conn.execute(CLAIM).fetchall()


def in_a_pipeline_that_is_read_midway(conn, held):
    with conn.pipeline():
        finished = conn.execute(FINISH, pair(held)).fetchall()
        claimed = conn.execute(CLAIM)
    return finished, claimed.fetchall()


def in_a_pipeline_with_a_sync_midway(conn, held):
    with conn.pipeline() as pipeline:
        finished = conn.execute(FINISH, pair(held))
        pipeline.sync()
        claimed = conn.execute(CLAIM)
    return finished.fetchall(), claimed.fetchall()


TOGETHER = pytest.mark.parametrize("together", [in_a_pipeline, in_one_message])


def round_trips(conn, work, *arguments):
    """Do the work; return how often the client fell silent to listen, and what the work returned.

    libpq itself says what it sent and what it read, message by message. All that is sent without
    reading anything in between, and all that is then read, is one round trip.
    """
    with tempfile.TemporaryFile("w+") as trace:
        conn.pgconn.trace(trace.fileno())
        conn.pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
        answer = work(conn, *arguments)
        conn.pgconn.untrace()
        trace.seek(0)
        directions = re.findall(r"^([FB])\t\d+\t\w+", trace.read(), re.MULTILINE)
    return [direction for direction, _ in groupby(directions)].count("B"), answer


def states(conn):
    return dict(conn.execute("select id, state from rota.jobs").fetchall())


def transactions(conn):
    """Return which transactions wrote the jobs as they are, ended ones and live ones."""
    return {
        number
        for (number,) in conn.execute(
            "select xmin::text from rota.finished_jobs union select xmin::text from rota.live_jobs"
        )
    }


def lives(conn, pid):
    """Return whether the server has this session still, and with it what it has not committed."""
    return conn.execute(
        "select exists (select from pg_stat_activity where pid = %s)", [pid]
    ).fetchone()[0]


def start(conn, observer, work, *arguments):
    """Begin work on a connection in a thread of its own."""
    thread = ThreadPoolExecutor(1)
    future = thread.submit(work, conn, *arguments)
    thread.shutdown(wait=False)
    return Call(future, conn.info.backend_pid, observer)


@pytest.mark.parametrize(
    ("way", "trips", "commits"),
    [
        (in_a_pipeline, 1, 1),
        (in_one_message, 1, 1),
        (in_a_pipeline_that_is_read_midway, 2, 1),
        (in_a_pipeline_with_a_sync_midway, 2, 2),
        (one_by_one, 2, 2),
    ],
)
def test_finish_and_claim_take_as_many_round_trips_and_commits_as_we_say(conn, way, trips, commits):
    first, second = enqueue(conn, 2)
    held = claim(conn)

    taken, (finished, claimed) = round_trips(conn, way, held)

    assert taken == trips
    assert len(transactions(conn)) == commits
    assert finished == [(first, "COMPLETED")]
    assert [job_id for job_id, _ in claimed] == [second]
    assert states(conn) == {first: "COMPLETED", second: "RUNNING"}


@TOGETHER
def test_a_worker_of_one_connection_runs_each_job_once(conn, together):
    job_ids = enqueue(conn, 20)
    ran = []
    held = claim(conn)

    while held:
        ran.append(held[0])
        trips, (finished, claimed) = round_trips(conn, together, held)
        assert (trips, finished) == (1, [(held[0], "COMPLETED")])
        held = claimed[0] if claimed else None

    assert ran == job_ids
    executions = conn.execute("select job_id, attempt, outcome from rota.executions order by 1")
    assert executions.fetchall() == [(job_id, 1, "SUCCEEDED") for job_id in job_ids]


@TOGETHER
def test_a_lost_lease_is_an_outcome_and_the_claim_goes_on(conn, together):
    lost, following = enqueue(conn, 2)
    claim(conn)

    finished, claimed = together(conn, (lost, uuid4()))

    assert finished == [(lost, "LEASE_LOST")]
    assert [job_id for job_id, _ in claimed] == [following]
    assert states(conn) == {lost: "RUNNING", following: "RUNNING"}


@TOGETHER
def test_a_refused_finish_leaves_nothing_claimed_and_the_connection_usable(conn, together):
    held_id, following = enqueue(conn, 2)
    held = claim(conn)

    for _ in range(10):  # more often than psycopg waits before it prepares
        with sqlstate("RTC02"):
            together(conn, (held_id, uuid4()), FINISH_ONE)
        assert states(conn) == {held_id: "RUNNING", following: "SCHEDULED"}

    finished, [claimed] = together(conn, held, FINISH_ONE)
    assert finished == [(held_id, "COMPLETED", None)]
    assert claimed[0] == following


@TOGETHER
def test_a_refused_claim_undoes_the_finish_which_may_be_repeated(conn, together):
    job_id, following = enqueue(conn, 2)
    held = claim(conn)

    with sqlstate("RTV01"):
        together(conn, held, claim="select * from rota.claim_next_job(max_jobs => 0)")

    assert states(conn) == {job_id: "RUNNING", following: "SCHEDULED"}
    finished, _ = together(conn, held)
    assert finished == [(job_id, "COMPLETED")]


@TOGETHER
def test_a_job_that_the_finish_made_due_may_be_claimed_at_once(conn, together):
    (job_id,) = enqueue(conn)
    held = claim(conn)

    finished, [again] = together(
        conn,
        held,
        "select state from rota.finish_job(%(id)s, %(token)s, 'not yet', retry_in => '0')",
        "select id, token, attempt from rota.claim_next_job()",
    )

    assert finished == [("SCHEDULED",)]
    assert (again[0], again[2]) == (job_id, 2)
    assert together(conn, held, FINISH)[0] == [(job_id, "CONFLICT")]
    assert together(conn, again[:2])[0] == [(job_id, "COMPLETED")]


@TOGETHER
def test_a_connection_killed_between_finish_and_claim_leaves_both_undone(conn, connect, together):
    job_id, following = enqueue(conn, 2)
    held = claim(conn)
    worker, gate = connect(), connect(autocommit=False)
    pid = worker.info.backend_pid
    conn.execute(
        """
        create function rota_test.wait_at_gate() returns trigger language plpgsql as $$
        begin
            perform pg_advisory_xact_lock(1);
            return new;
        end;
        $$;
        create trigger gate before update on rota.live_jobs
            for each row when (new.state = 'RUNNING') execute function rota_test.wait_at_gate();
        """
    )
    gate.execute("select pg_advisory_xact_lock(1)")
    travelling = start(worker, conn, together, held)
    assert travelling.waits()  # in the claim, so the finish is done

    conn.execute("select pg_terminate_backend(%s)", [pid])
    with pytest.raises(psycopg.OperationalError):
        travelling.answer()
    gate.rollback()

    wait_until(lambda: not lives(conn, pid))
    assert states(conn) == {job_id: "RUNNING", following: "SCHEDULED"}
    finished, [claimed] = together(connect(), held)
    assert (finished, claimed[0]) == ([(job_id, "COMPLETED")], following)


def test_a_client_that_dies_before_the_sync_leaves_both_undone(conn, connect):
    """Answers that come before the commit are no promise, so they are read after the block."""
    job_id, following = enqueue(conn, 2)
    held = claim(conn)
    worker = connect()
    pid = worker.info.backend_pid

    with pytest.raises(psycopg.OperationalError), worker.pipeline():
        finished = worker.execute(FINISH, pair(held)).fetchall()
        claimed = worker.execute(CLAIM).fetchall()
        worker.pgconn.finish()
        raise psycopg.OperationalError

    assert finished == [(job_id, "COMPLETED")]
    assert [claimed_id for claimed_id, _ in claimed] == [following]
    wait_until(lambda: not lives(conn, pid))
    assert states(conn) == {job_id: "RUNNING", following: "SCHEDULED"}


def test_a_client_that_dies_after_the_sync_leaves_both_done(conn, connect):
    """The finish, repeated, gets its answer; the job claimed unheard comes back with its lease."""
    job_id, following = enqueue(conn, 2)
    held = claim(conn)
    worker = connect()
    arrays = [f"{{{each}}}".encode() for each in held]

    worker.pgconn.enter_pipeline_mode()
    worker.pgconn.send_query_params(b"select * from rota.finish_jobs($1, $2)", arrays)
    worker.pgconn.send_query_params(
        b"select * from rota.claim_next_job(lease => '1 microsecond')", None
    )
    worker.pgconn.pipeline_sync()
    worker.pgconn.finish()

    wait_until(lambda: states(conn) == {job_id: "COMPLETED", following: "RUNNING"})
    assert len(transactions(conn)) == 1
    assert in_a_pipeline(conn, held) == ([(job_id, "COMPLETED")], [])
    assert call(conn, "recover_jobs") == [{"recover_jobs": 1}]
    assert states(conn) == {job_id: "COMPLETED", following: "SCHEDULED"}


def test_two_that_overlap_get_different_jobs_and_neither_waits(conn, connect):
    first_id, second_id, third_id, fourth_id = enqueue(conn, 4)
    first_held, second_held = claim(conn), claim(conn)
    first, second = connect(), connect()

    with first.pipeline():
        first.execute(FINISH, pair(first_held))
        [(got_by_first, _)] = first.execute(CLAIM).fetchall()  # before the commit
        overlapping = start(second, conn, in_a_pipeline, second_held)
        assert not overlapping.waits()
        assert states(conn)[first_id] == "RUNNING"

    assert got_by_first == third_id
    finished, [(got_by_second, _)] = overlapping.answer()
    assert (finished, got_by_second) == ([(second_id, "COMPLETED")], fourth_id)
    assert states(conn)[first_id] == "COMPLETED"


def test_no_deadlock_with_one_who_holds_the_next_job_and_wants_the_finished_one(
    conn, connect, session
):
    held_id, wanted, following = enqueue(conn, 3)
    held = claim(conn)
    worker, other = connect(), session()
    other.begin()
    other.call("cancel_job", job_id=wanted)

    with worker.pipeline():
        worker.execute(FINISH, pair(held)).fetchall()  # the row is locked from here to the commit
        late = other.start("cancel_job", job_id=held_id)
        assert late.waits()
        claimed = worker.execute(CLAIM)

    assert claimed.fetchone()[0] == following
    with sqlstate("RTC01"):
        late.answer()
    other.rollback()
    assert states(conn) == {held_id: "COMPLETED", wanted: "SCHEDULED", following: "RUNNING"}


@TOGETHER
def test_workers_at_once_share_the_jobs_and_run_each_once(conn, connect, together):
    job_ids = enqueue(conn, 200)
    workers = [connect() for _ in range(4)]

    def drain(worker):
        ran = []
        held = claim(worker)
        while held:
            ran.append(held[0])
            finished, claimed = together(worker, held)
            assert finished == [(held[0], "COMPLETED")]
            held = claimed[0] if claimed else claim(worker)
        return ran

    with ThreadPoolExecutor(len(workers)) as threads:
        shares = list(threads.map(drain, workers))

    assert sorted(job_id for share in shares for job_id in share) == job_ids
    assert conn.execute(
        "select count(*), count(distinct job_id) from rota.executions where outcome = 'SUCCEEDED'"
    ).fetchone() == (200, 200)


def test_a_claim_in_a_transaction_of_a_higher_level_is_refused_and_undoes_the_finish(connect):
    conn = connect()
    (job_id,) = enqueue(conn)
    held = claim(conn)
    strict = connect(options="-c default_transaction_isolation=serializable")

    with sqlstate("RTC04"):
        in_a_pipeline(strict, held)

    assert states(conn) == {job_id: "RUNNING"}
