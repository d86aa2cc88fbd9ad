"""What one claim asks for, and what a worker holds, has a bound in jobs, bytes and time."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from psycopg import Connection

from rota.worker.attempt import Attempt
from rota.worker.clock import clock
from rota.worker.desk import MOST_RESULTS, Desk
from tests.waiting import wait_until
from tests.worker.conftest import WorkerProcess

StartWorker = Callable[..., WorkerProcess]
MIB = 2**20


def fill(conn: Connection, count: int, task: str, size: int = 0, at_once: int = 100) -> None:
    for _ in range(0, count, at_once):
        conn.execute(
            """
            select count(*) from rota.enqueue_jobs((
                select jsonb_agg(jsonb_build_object('task', %s::text, 'payload', repeat('x', %s)))
                from generate_series(1, %s)
            ))
            """,
            [task, size, at_once],
        )


def peak_memory(pid: int) -> int:
    """Return the most that a process has had in memory, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError


@pytest.mark.parametrize(
    ("task", "size", "count"),
    [("noop", 1_000_000, 500), ("large", 0, 300)],
    ids=["payloads", "results"],
)
def test_what_is_large_takes_a_bounded_part_of_the_memory(
    conn: Connection, start_worker: StartWorker, settled: Callable, task: str, size: int, count: int
) -> None:
    fill(conn, 5000, "noop", at_once=1000)  # after which many are fetched at once
    fill(conn, count, task, size)

    worker = start_worker()
    settled(timeout=120)

    assert peak_memory(worker.pid) < 220 * MIB


def limit_claims(conn: Connection, most: int) -> None:
    """Have claims of more than so many jobs run out of time, and note what others ask for."""
    conn.execute("create table public.in_time as select %s::integer as most", [most])
    conn.execute("create table public.asked (place bigserial, jobs integer)")
    (definition,) = conn.execute(
        "select pg_get_functiondef('rota.claim_next_job'::regproc)"
    ).fetchone()
    limited = """
        if max_jobs > (select i.most from public.in_time as i) then
            raise 'canceling statement due to statement timeout' using errcode = '57014';
        end if;
        insert into public.asked (jobs) values (max_jobs);
        if queues is null then
    """
    assert "if queues is null then" in definition
    conn.execute(definition.replace("if queues is null then", limited))


@pytest.mark.parametrize("most", [3, 1])
def test_a_claim_that_was_not_done_in_time_is_repeated_at_half_the_size(
    conn: Connection, start_worker: StartWorker, settled: Callable, most: int
) -> None:
    limit_claims(conn, most)
    fill(conn, 20, "noop", at_once=20)

    start_worker()
    settled(timeout=20)

    assert max(asked(conn)) <= most


def test_claims_grow_again_once_they_are_done_in_time(
    conn: Connection, start_worker: StartWorker, settled: Callable
) -> None:
    limit_claims(conn, 1)
    fill(conn, 1, "noop", at_once=1)
    start_worker("--concurrency", "64", "--poll", "0.1")
    settled(timeout=20)

    conn.execute("update public.in_time set most = 1000")

    wait_until(lambda: asked(conn)[-1] == 64, timeout=20)


def asked(conn: Connection) -> list[int]:
    return [jobs for (jobs,) in conn.execute("select jobs from public.asked order by place")]


def returned(desk: Desk, size: int) -> Attempt:
    """Return a job that has just returned a result of this size."""
    row = (1, str(uuid4()), "t", '"payload"', "q", 1, 3, None, 0.0, 1, None, None)
    job = Attempt(row, clock(), clock() + 60, desk.report_progress)
    desk.take([job])
    desk.start(job)
    assert desk.settle(job, result="x" * size)
    desk.give_up(job)
    return job


def waiting(desk: Desk) -> threading.Thread:
    thread = threading.Thread(target=desk.wait_for_results, daemon=True)
    thread.start()
    return thread


def test_no_job_is_started_while_too_many_results_wait_to_be_told() -> None:
    desk = Desk({})
    job = returned(desk, MOST_RESULTS + 1)
    thread = waiting(desk)
    thread.join(0.2)
    assert thread.is_alive()

    desk.forget([job])

    thread.join(10)
    assert not thread.is_alive()


def test_who_stops_does_not_wait_for_results_to_be_told() -> None:
    desk = Desk({})
    returned(desk, MOST_RESULTS + 1)
    desk.stopping.set()

    desk.wait_for_results()


def test_what_is_held_is_counted_until_the_database_was_told() -> None:
    desk = Desk({})
    held: list[Any] = [returned(desk, size) for size in (1000, 2000)]

    assert 3000 < desk.bytes_held == desk.bytes_untold < 4000
    desk.forget(held[:1])
    assert 2000 < desk.bytes_held < 3000
    desk.forget(held[1:])

    assert desk.bytes_held == desk.bytes_untold == 0
