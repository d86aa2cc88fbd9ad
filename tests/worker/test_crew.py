"""What becomes of the jobs in hand: at a stop, and when a lease has passed; seen from within."""

import asyncio
import functools
import threading
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest

from rota.worker import task
from rota.worker.attempt import Attempt
from rota.worker.clock import clock
from rota.worker.crew import NEVER_BEGAN, STOPPED, Crew
from rota.worker.desk import Desk
from tests.waiting import wait_until

started: list[int] = []
gate = threading.Event()


@task("held in a thread")
def in_a_thread(job: Attempt) -> None:
    started.append(job.id)
    gate.wait(30)


@task("stale in a thread")
def stale_in_a_thread(job: Attempt) -> None:
    started.append(job.id)


@task("stale in a coroutine")
async def stale_in_a_coroutine(job: Attempt) -> None:
    started.append(job.id)


@task("ends all others")
async def ends_all_others(job: Attempt) -> None:
    for other in asyncio.all_tasks():
        if other is not asyncio.current_task():
            other.cancel()


@task("sleeps")
async def sleeps(job: Attempt) -> None:
    started.append(job.id)
    await asyncio.sleep(30)


def hidden(function: Callable) -> Callable:
    return functools.wraps(function)(lambda job: function(job))


@task("hides that it is async")
@hidden
async def hides_that_it_is_async(job: Attempt) -> str:
    await asyncio.sleep(0)
    return "awaited"


class Called:
    async def __call__(self, job: Attempt) -> str:
        await asyncio.sleep(0)
        return "awaited"


task("is an object")(Called())


def start_thread(name: str, work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def attempt(desk: Desk, name: str, id_: int, queue: str = "q") -> Attempt:
    row = (id_, str(uuid4()), name, "{}", queue, 1, 3, None, 0.0, 1, None, None)
    return Attempt(row, clock(), clock() + 60, desk.report_progress)


def put_in_hand(desk: Desk, jobs: list[Attempt]) -> None:
    """As a claim does: the jobs wait to be started."""
    desk.take(jobs)
    for job in jobs:
        desk.ready.put(job)


def in_hand(desk: Desk, name: str, number: int, queue: str = "q") -> list[Attempt]:
    """Return jobs that were claimed and wait to be started."""
    jobs = [attempt(desk, name, id_, queue) for id_ in range(number)]
    put_in_hand(desk, jobs)
    return jobs


def test_a_stop_hands_back_what_was_not_started_while_the_rest_still_runs() -> None:
    started.clear()
    gate.clear()
    desk = Desk({})
    crew = Crew(desk, 1, start_thread)
    crew.start()
    in_hand(desk, "held in a thread", 5)
    wait_until(lambda: started)

    stop = start_thread("stop", lambda: crew.stop(30))
    wait_until(lambda: desk.done.qsize() == 4)
    back = [desk.done.get_nowait() for _ in range(4)]
    assert stop.is_alive()
    gate.set()
    stop.join(30)

    assert started == [0]
    assert {(job.id, job.handed_back, job.error) for job in back} == {
        (id_, timedelta(), STOPPED) for id_ in range(1, 5)
    }
    last = desk.done.get_nowait()
    assert (last.id, last.handed_back, last.error) == (0, None, None)
    assert desk.in_hand == set()


@pytest.fixture
def desk():
    """A desk with a crew behind it."""
    started.clear()
    desk = Desk({})
    crew = Crew(desk, 4, start_thread)
    desk.crew = crew
    yield desk
    desk.stopping.set()
    crew.stop(5)


def test_a_coroutine_that_is_cancelled_before_its_first_step_fails_its_attempt(desk) -> None:
    jobs = [attempt(desk, name, n) for n, name in enumerate(["ends all others", *["sleeps"] * 3])]
    desk.take(jobs)
    for job in jobs:  # before the loop runs, so that it begins all of them at once
        desk.crew._coroutines.begin(job)

    desk.crew.start()
    wait_until(lambda: desk.done.qsize() == 4)

    ended = {job.id: job.error for job in (desk.done.get() for _ in range(4))}
    assert ended == {0: None, 1: NEVER_BEGAN, 2: NEVER_BEGAN, 3: NEVER_BEGAN}
    assert (started, desk.in_hand, desk.running) == ([], set(), set())


@pytest.mark.parametrize("what", ["cancel_requested", "lost"])
def test_a_coroutine_that_is_to_stop_while_it_is_begun_stops(desk, monkeypatch, what) -> None:
    start = desk.start

    def start_late(job: Attempt) -> None:
        start(job)
        setattr(job, what, True)  # as the heartbeat may at this very moment

    monkeypatch.setattr(desk, "start", start_late)
    desk.crew.start()
    in_hand(desk, "sleeps", 1)

    wait_until(lambda: desk.done.qsize() == 1)
    assert desk.done.get().error in ("cancelled on request", "its lease was lost")
    wait_until(lambda: not desk.in_hand)
    assert desk.running == set()


def test_a_coroutine_whose_time_is_over_at_once_leaves_its_place(desk) -> None:
    job = attempt(desk, "sleeps", 1)
    job.timeout = 0.000001
    desk.crew.start()

    put_in_hand(desk, [job])

    wait_until(lambda: not desk.in_hand, 5)
    assert desk.done.get().error.startswith("timed out")


@pytest.mark.parametrize("name", ["hides that it is async", "is an object"])
def test_an_async_handler_is_awaited_however_it_is_wrapped(desk, name) -> None:
    desk.crew.start()
    (job,) = in_hand(desk, name, 1)

    wait_until(lambda: desk.done.qsize() == 1)

    assert (job.error, job.result) == (None, '"awaited"')


def test_a_job_that_is_given_up_leaves_its_place_in_its_queues_limit() -> None:
    gate.set()
    desk = Desk({"q": 2})
    crew = Crew(desk, 1, start_thread)
    jobs = in_hand(desk, "held in a thread", 2) + in_hand(desk, "held in a thread", 1, "other")
    assert desk.of_limited_queue == {"q": set(jobs[:2])}

    crew.start()
    wait_until(lambda: desk.done.qsize() == 3)
    crew.stop(5)

    assert desk.of_limited_queue == {"q": set()}
    assert desk.in_hand == set()
    assert desk.held == set(jobs)  # until the database has been told
    desk.forget(jobs)
    assert desk.held == set()


def test_only_the_first_of_two_endings_counts() -> None:
    gate.set()
    desk = Desk({})
    (job,) = in_hand(desk, "held in a thread", 1)
    assert desk.settle(job, error="not started yet") is False
    desk.start(job)

    assert desk.settle(job, result="1", retry_in=timedelta(5), retry=False) is True
    assert desk.settle(job, error="too late") is False

    assert (job.error, job.result, job.retry_in, job.retry) == (None, "1", timedelta(5), False)
    assert desk.done.qsize() == 1


@pytest.mark.parametrize("name", ["stale in a thread", "stale in a coroutine"])
def test_a_job_is_not_started_when_its_lease_can_no_longer_be_trusted(name: str) -> None:
    started.clear()
    desk = Desk({})
    stale, fresh = jobs = [attempt(desk, name, id_) for id_ in range(2)]
    stale.trusted_until = clock() - 1
    put_in_hand(desk, jobs)
    crew = Crew(desk, 1, start_thread)

    crew.start()
    wait_until(lambda: desk.done.qsize() == 2)
    crew.stop(5)

    assert started == [fresh.id]
    assert stale.handed_back is not None
    assert fresh.handed_back is None
