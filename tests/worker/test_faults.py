"""Workers that die, freeze, stop or lose their database: no job is lost, none finished twice."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.db.gateway import call
from rota.db.version import checkout_version
from tests.waiting import wait_until
from tests.worker.conftest import THREAD_AND_COROUTINE, Trace, WorkerProcess

StartWorker = Callable[..., WorkerProcess]
ReadJob = Callable[[int], dict[str, Any]]


def lease_has_run_out(conn: Connection) -> bool:
    """Tell whether a job is held under a lease that ran out, before anybody takes it back."""
    row = conn.execute(
        "select exists (select from rota.jobs where state = 'RUNNING' and lease_until < now())"
    ).fetchone()
    return row == (True,)


def test_a_job_whose_worker_was_killed_is_run_by_another(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    call(conn, "configure_queue", queue="default", backoff_base="10 milliseconds")
    victim = start_worker("--lease", "1")
    job_id = enqueue("hold", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)

    victim.kill()
    wait_until(lambda: lease_has_run_out(conn))
    start_worker("--lease", "1", "--poll", "0.1")
    wait_until(lambda: trace.count()["start"] == 2)
    trace.open_gate()
    settled()

    assert job(job_id)["state"] == "COMPLETED"
    assert outcomes(job_id) == ["LOST", "SUCCEEDED"]


def cut_upkeep(conn: Connection) -> None:
    conn.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'rota worker: upkeep' and datname = current_database()"
    )


def test_a_worker_that_was_taken_for_dead_learns_it_as_soon_as_it_is_back(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
) -> None:
    """It could not connect for too long; its next beat would come in ten seconds."""
    worker = start_worker("--concurrency", "1")
    job_id = enqueue("hold", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)
    wait_until(lambda: conn.execute("select backend from rota.workers").fetchone() != (None,))
    conn.execute("update rota.workers set gone_at = rota._now(), stopped_at = rota._now()")
    call(conn, "recover_jobs")  # unless its own chores did
    wait_until(lambda: outcomes(job_id) == ["LOST"])

    cut_upkeep(conn)

    lost = "the lease was lost, what its handler returns will be discarded"
    wait_until(lambda: worker.logged(lost), timeout=5)
    status = "select stopped_at, gone_at from rota.workers"
    assert conn.execute(status).fetchone() == (None, None)
    trace.open_gate()
    wait_until(lambda: outcomes(job_id) == ["LOST", "SUCCEEDED"])


def test_a_worker_that_is_stopping_shows_that_it_lives_until_its_handlers_are_done(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    trace: Trace,
) -> None:
    worker = start_worker()
    enqueue("hold", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)
    worker.send(signal.SIGTERM)
    wait_until(lambda: worker.logged("stopping"))
    (before,) = conn.execute("select backend from rota.workers").fetchone()

    cut_upkeep(conn)

    attending = """
        select count(*) from rota.workers as w join pg_stat_activity as a on a.pid = w.backend
        where a.pid <> %s
    """
    wait_until(lambda: conn.execute(attending, [before]).fetchone() == (1,), timeout=5)
    trace.open_gate()
    assert worker.wait() == 0
    stopped = "select stopped_at is not null, gone_at from rota.workers"
    assert conn.execute(stopped).fetchone() == (True, None)


@pytest.mark.parametrize("task", THREAD_AND_COROUTINE)
def test_a_stop_lets_running_jobs_end_and_keeps_their_leases(
    task: str,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    conn: Connection,
    trace: Trace,
) -> None:
    worker = start_worker("--lease", "1", "--grace", "20", "--concurrency", "1")
    running = enqueue(task, trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)

    worker.send(signal.SIGTERM)
    wait_until(lambda: worker.logged("stopping"))
    waiting = enqueue(task, trace.payload)
    ends_at = time.monotonic() + 2.5  # leases
    while time.monotonic() < ends_at:
        assert not lease_has_run_out(conn)
        assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]
    trace.open_gate()

    assert worker.wait() == 0
    assert trace.count() == {"start": 1, "end": 1}
    assert outcomes(running) == ["SUCCEEDED"]
    assert outcomes(waiting) == []


@pytest.mark.parametrize(
    ("task", "seen"),
    [
        ("hold", {"start": 1}),
        ("async_hold", {"start": 1, "cancelled": 1}),
        ("async_stubborn", {"start": 1, "cancelled": 1}),
    ],
)
def test_what_outlives_the_grace_time_is_handed_back_uncharged(
    task: str,
    seen: dict[str, int],
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    outcomes: Callable,
    trace: Trace,
) -> None:
    worker = start_worker("--grace", "0.2")
    job_id = enqueue(task, {**trace.payload, "minds": False})
    wait_until(lambda: trace.count()["start"] == 1)

    assert worker.stop() == 0
    assert trace.count() == seen
    assert job(job_id)["state"] == "SCHEDULED"
    assert job(job_id)["attempt"] == 0
    assert outcomes(job_id) == ["RELEASED"]
    assert conn.execute("select stopped_at is not null from rota.worker_status").fetchall() == [
        (True,)
    ]


def test_jobs_that_were_claimed_and_not_started_are_handed_back_at_a_stop(
    conn: Connection, start_worker: StartWorker, enqueue: Callable[..., int], trace: Trace
) -> None:
    jobs = [{"task": "mark", "payload": trace.payload} for _ in range(3000)]
    call(conn, "enqueue_jobs", jobs=Jsonb(jobs))
    worker = start_worker("--concurrency", "1")
    wait_until(lambda: trace.count()["start"] > 300)

    assert worker.stop() == 0
    states = dict(conn.execute("select state, count(*) from rota.jobs group by state").fetchall())
    assert states.keys() == {"COMPLETED", "SCHEDULED"}
    assert states["COMPLETED"] == trace.count()["start"]


def test_a_claim_that_takes_long_is_given_up_at_a_stop(
    conn: Connection, start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob
) -> None:
    conn.execute(
        """
        create function public.stall() returns trigger language plpgsql as $$
        begin
            perform pg_sleep(60);
            return new;
        end;
        $$;

        create trigger stall before update on rota.live_jobs
        for each row execute function public.stall()
        """
    )
    worker = start_worker("--lease", "600")
    job_id = enqueue("echo")
    claim = "select state from pg_stat_activity where wait_event = 'PgSleep'"
    wait_until(lambda: conn.execute(claim).fetchall() == [("active",)])

    assert worker.stop() == 0
    assert conn.execute(claim).fetchall() == []
    assert job(job_id)["state"] == "SCHEDULED"
    assert job(job_id)["attempt"] == 0


def test_a_second_signal_ends_it_at_once(
    start_worker: StartWorker, enqueue: Callable[..., int], trace: Trace
) -> None:
    worker = start_worker("--grace", "60")
    enqueue("hold", {**trace.payload, "minds": False})
    wait_until(lambda: trace.count()["start"] == 1)

    worker.send(signal.SIGTERM)
    wait_until(lambda: worker.logged("stopping"))
    worker.send(signal.SIGTERM)

    assert worker.wait(5) == 128 + signal.SIGTERM


def test_a_frozen_worker_that_comes_back_finishes_nothing_and_starts_nothing_stale(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    call(conn, "configure_queue", queue="default", backoff_base="10 milliseconds")
    zombie = start_worker("--lease", "1", "--concurrency", "1")
    job_id = enqueue("hold", {**trace.payload, "minds": False})
    wait_until(lambda: trace.count()["start"] == 1)

    zombie.send(signal.SIGSTOP)
    wait_until(lambda: lease_has_run_out(conn))
    start_worker("--lease", "1", "--poll", "0.1")
    wait_until(lambda: trace.count()["start"] == 2)
    zombie.send(signal.SIGCONT)
    wait_until(
        lambda: zombie.logged("the lease was lost, what its handler returns will be discarded")
    )
    trace.open_gate()
    settled()
    wait_until(lambda: trace.count()["end"] == 2)

    assert outcomes(job_id) == ["LOST", "SUCCEEDED"]
    wait_until(lambda: any(line.get("outcome") == "LEASE_LOST" for line in zombie.lines))


@pytest.mark.parametrize("task", THREAD_AND_COROUTINE)
def test_a_handler_is_told_when_its_lease_can_no_longer_be_trusted(
    task: str,
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    trace: Trace,
) -> None:
    worker = start_worker("--lease", "1")
    job_id = enqueue(task, trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)

    with conn.transaction():
        conn.execute("select from rota.live_jobs where id = %s for update", [job_id])
        wait_until(lambda: trace.count()["cancelled"] == 1)

    assert worker.stop() == 0


def test_a_worker_whose_sessions_are_all_ended_finishes_what_it_runs(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    start_worker("--lease", "5")
    enqueue("echo")
    settled()
    ids = [enqueue("hold", trace.payload) for _ in range(4)]
    wait_until(lambda: trace.count()["start"] == 4)

    ended = conn.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name like 'rota worker%' and datname = current_database()"
    ).fetchall()
    trace.open_gate()
    settled()
    after = enqueue("echo")
    settled()

    assert len(ended) >= 4
    assert trace.count() == {"start": 4, "end": 4}
    assert [outcomes(job_id) for job_id in [*ids, after]] == [["SUCCEEDED"]] * 5


def test_a_locked_row_holds_up_no_other_result(
    conn: Connection,
    connect: Callable[..., Connection],
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    trace: Trace,
) -> None:
    worker = start_worker("--grace", "1")
    locked, *others = [enqueue("hold", trace.payload) for _ in range(6)]
    wait_until(lambda: trace.count()["start"] == 6)
    blocker = connect(autocommit=False)
    blocker.execute("select from rota.live_jobs where id = %s for update", [locked])

    trace.open_gate()
    wait_until(lambda: all(job(other)["state"] == "COMPLETED" for other in others))

    assert job(locked)["state"] == "RUNNING"
    blocker.rollback()
    wait_until(lambda: job(locked)["state"] == "COMPLETED")
    assert worker.stop() == 0


def test_a_crash_of_the_server_costs_no_result(tmp_path: Path) -> None:
    trace = Trace(tmp_path)
    with Cluster(tmp_path / "pg", settings={"fsync": "off"}) as cluster:
        deploy(cluster.url())
        with closing(psycopg.connect(cluster.url(), autocommit=True)) as conn:
            call(conn, "enqueue_job", task="hold", payload=Jsonb(trace.payload))
        worker = WorkerProcess(cluster.url(), tmp_path / "log", "--lease", "20")
        try:
            wait_until(lambda: trace.count()["start"] == 1)
            # A claim is on disk with the next durable commit only: here is one.
            with closing(psycopg.connect(cluster.url(), autocommit=True)) as conn:
                call(conn, "enqueue_job", task="echo", queue="unserved")

            cluster.kill()
            trace.open_gate()
            wait_until(lambda: trace.count()["end"] == 1)
            cluster.start()

            with closing(psycopg.connect(cluster.url(), autocommit=True)) as conn:
                wait_until(
                    lambda: (
                        conn.execute(
                            "select state, attempt from rota.jobs where task = 'hold'"
                        ).fetchall()
                        == [("COMPLETED", 1)]
                    )
                )
                assert conn.execute("select * from rota.check_invariants()").fetchall() == []
            assert trace.count() == {"start": 1, "end": 1}
            assert worker.stop() == 0
        finally:
            worker.kill()


OTHER = "create or replace function rota.version() returns text language sql return 'other'"


def test_a_worker_refuses_functions_of_another_checkout(
    conn: Connection, start_worker: StartWorker
) -> None:
    conn.execute(OTHER)
    conn.execute("delete from rota.versions")

    worker = start_worker(ready=False)

    assert worker.wait() == 2
    assert "run rota deploy" in worker.lines[-1]["error"]


def test_a_worker_starts_where_its_functions_were_deployed_and_later_ones_are(
    conn: Connection, start_worker: StartWorker, enqueue: Callable[..., int], job: ReadJob
) -> None:
    """It may have ended by itself, while the fleet is replaced, and its machine starts it again."""
    conn.execute(OTHER)

    worker = start_worker()

    done = enqueue("echo")
    wait_until(lambda: job(done)["state"] == "COMPLETED")
    [line] = [line for line in worker.lines if "later functions" in line["message"]]
    assert line["level"] == "WARNING"
    announced = conn.execute("select version from rota.workers where stopped_at is null")
    assert announced.fetchall() == [(checkout_version(),)]
    assert worker.stop() == 0


def test_a_worker_refuses_a_database_without_rota(empty_db: str, start_worker: StartWorker) -> None:
    worker = start_worker(url=empty_db, ready=False)

    assert worker.wait() == 2
    assert "run rota deploy" in worker.lines[-1]["error"]


def test_a_worker_needs_no_other_rights_than_those_of_its_role(
    login: Callable[..., str],
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
) -> None:
    worker = start_worker(url=login("rota_worker"))
    done, unknown = enqueue("sleep", {"seconds": 1.5}), enqueue("sing")

    wait_until(lambda: job(done)["state"] == "COMPLETED" and job(unknown)["last_error"])

    assert worker.stop() == 0
    assert not [line for line in worker.lines if line["level"] in ("ERROR", "CRITICAL")]


def test_a_worker_that_lacks_the_right_to_claim_ends_with_an_error(
    login: Callable[..., str], start_worker: StartWorker
) -> None:
    worker = start_worker(url=login("rota_reader"), ready=False)

    assert worker.wait() != 0
    assert "permission denied" in str(worker.lines)


def test_a_bad_command_line_is_refused() -> None:
    for arguments in (["--queues", "a,a"], ["--queues", "a:0"], ["--lease", "nan"]):
        ended = subprocess.run(
            [sys.executable, "-m", "rota.worker", *arguments], capture_output=True, text=True
        )

        assert ended.returncode == 2
        assert "usage: rota worker" in ended.stderr


def test_a_handler_that_holds_its_lease_writes_once_and_disturbs_no_other(
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Callable,
    trace: Trace,
    settled: Callable,
) -> None:
    conn.execute("create table public.ledger (job_id bigint)")
    start_worker("--lease", "1")
    other = enqueue("hold", trace.payload)
    job_id = enqueue("ledger", trace.payload)
    wait_until(lambda: trace.count()["start"] == 2)

    ends_at = time.monotonic() + 2.5  # leases
    while time.monotonic() < ends_at:
        assert call(conn, "recover_jobs") == [{"recover_jobs": 0}]
    trace.open_gate()
    settled()

    assert conn.execute("select job_id from ledger").fetchall() == [(job_id,)]
    assert outcomes(job_id) == ["SUCCEEDED"]
    assert outcomes(other) == ["SUCCEEDED"]
