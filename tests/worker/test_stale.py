"""A job that waited in its worker for so long that its lease may be another's by now."""

import threading
from uuid import uuid4

import pytest

from tests.waiting import wait_until
from worker import task
from worker.crew import Crew
from worker.desk import Desk
from worker.job import Job, clock

started: list[int] = []


@task("stale in a thread")
def in_a_thread(job: Job) -> None:
    started.append(job.id)


@task("stale in a coroutine")
async def in_a_coroutine(job: Job) -> None:
    started.append(job.id)


def start_thread(name, work):
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("name", ["stale in a thread", "stale in a coroutine"])
def test_a_job_is_not_started_when_its_lease_can_no_longer_be_trusted(name):
    started.clear()
    desk = Desk({})
    jobs = [
        Job(desk, clock(), trusted_until, (number, str(uuid4()), name, "{}", "q", 1, 3, None, 0.0))
        for number, trusted_until in enumerate([clock() - 1, clock() + 60])
    ]
    desk.take(jobs)
    for job in jobs:
        desk.ready.put(job)
    crew = Crew(desk, 1, start_thread)

    crew.start()
    wait_until(lambda: desk.done.qsize() == 2)
    crew.stop(5)

    assert started == [1]
    stale, fresh = sorted([desk.done.get(), desk.done.get()], key=lambda job: job.id)
    assert stale.handed_back is not None
    assert fresh.handed_back is None
