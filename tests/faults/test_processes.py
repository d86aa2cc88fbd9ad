"""What may befall a worker process: killed, stopped, blocked, poisoned, forked."""

import contextlib
import json
import os
import threading
import time
from collections import Counter

import psycopg
import pytest

from rota.worker.link import Link
from tests.faults.harness import DROP_SESSIONS, LONG, House, only_long
from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("point", "attempts"),
    [
        ("claim:ok", ["LOST", "SUCCEEDED"]),
        ("effect:start", ["LOST", "SUCCEEDED"]),
        ("effect:done", ["LOST", "SUCCEEDED"]),
        ("finish:invoke", ["LOST", "SUCCEEDED"]),
        ("finish:ok", ["SUCCEEDED"]),
    ],
)
def test_f1_a_worker_killed_at_any_point_loses_no_job(
    house: House, point: str, attempts: list[str]
):
    house.produce(1)
    doomed = house.worker(die_at=point, lease=1, concurrency=1)
    with house.fault(f"worker dies at {point}", doomed.pid):
        wait_until(lambda: not doomed.alive)

    house.worker(concurrency=1)

    report = house.decide(jobs=1)
    assert house.outcomes() == [attempts]
    assert report.figures.duplicates_explained == (point in ("effect:done", "finish:invoke"))


POINTS = {  # of a handler in steps, and which step is done twice because it was not recorded
    "effect:start": None,
    "effect:in one": "one",
    "record_step:invoke": "one",
    "record_step:ok": None,
    "effect:after one": None,
    "sleep:invoke": None,
    "sleep:ok": None,
    "effect:after nap": None,
    "effect:in two": "two",
    "effect:after two": None,
    "await_event:invoke": None,
    "await_event:ok": None,
    "effect:after event": None,
    "effect:in three": "three",
    "effect:done": None,
    "finish:invoke": None,
    "finish:ok": None,
}
AWAITED = "select exists (select from rota.event_waits where event = %s)"
STEPS = "select step from rota.recorded_steps(%s) where step in ('one', 'two', 'three')"


SHORT = ["effect:in two", "record_step:ok", "await_event:ok"]
OTHERS = [point for point in POINTS if point not in SHORT]


@pytest.mark.parametrize(
    "points",
    [SHORT, *(pytest.param(OTHERS[start::3], marks=only_long) for start in range(3))],
    ids=", ".join,
)
def test_f1_a_handler_that_is_killed_anywhere_repeats_no_recorded_step(
    house: House, points: list[str]
):
    """A worker for each point, which dies there, and then another, until the jobs are done."""
    doomed = {}
    with contextlib.ExitStack() as faults:
        for number, point in enumerate(points):
            queue = f"q{number}"
            payload = {"seconds": 0.2, "event": queue}
            house.produce(1, task="in_steps", queue=queue, payload=payload)
            doomed[queue] = house.worker(
                die_at=point, lease=1, concurrency=1, extra=("--queues", queue)
            )
            faults.enter_context(house.fault(f"worker dies at {point}", doomed[queue].pid))
        for queue, worker in doomed.items():  # some need their event to come to their point
            wait_until(
                lambda: not worker.alive or house.value(AWAITED, queue)  # noqa: B023
            )
            house.emit(queue)
        wait_until(lambda: not any(worker.alive for worker in doomed.values()))

    house.worker(concurrency=len(points), extra=("--queues", ",".join(doomed)))

    house.decide(jobs=len(points), faults=len(points), naps=len(points), events=len(points))
    lines = (house.folder / "effects.jsonl").read_text().splitlines()
    effects = [json.loads(line) for line in lines]
    jobs = house.execute("select id, queue, state from rota.jobs order by id")
    for (job_id, queue, state), point in zip(jobs, points, strict=True):
        assert (queue, state) == (f"q{points.index(point)}", "COMPLETED")
        phases = [one["phase"] for one in effects if one["job"] == job_id]
        done = Counter(phase[3:] for phase in phases if phase.startswith("in "))
        assert done == Counter(["one", "two", "three", *filter(None, [POINTS[point]])]), point
        assert house.execute(STEPS, job_id) == [("one",), ("two",), ("three",)]


def test_f1_workers_killed_at_random_lose_no_event_and_repeat_no_recorded_step(house: House):
    jobs, kills = (120, 10) if LONG else (25, 3)
    workers = [house.worker(lease=1) for _ in range(2)]

    def is_over() -> bool:
        return house.effects("done") > 0 and house.live() == 0

    with house.producing_in_steps(jobs, pause=0.1):
        for number in range(kills):
            phase = house.random.choice(["in one", "in two", "after nap", "after event"])
            before = house.effects(phase)
            wait_until(
                lambda phase=phase, before=before: house.effects(phase) > before or is_over()
            )
            house.kill(workers[number % 2])
            workers[number % 2] = house.worker(lease=1)

    # Who is killed may not hear that its job sleeps, and some events come before they are awaited.
    house.decide(jobs=jobs, faults=kills, naps=jobs // 2, events=jobs)


LEASE = 30.0  # seconds, as it is by default: nothing here waits for it to end
ATTENDING = """
    select count(*)
    from rota.workers as w
    join pg_stat_activity as a on a.pid = w.backend
    where w.stopped_at is null
"""


def runner(house: House, phase: str = "start") -> tuple[int, float]:
    """Return the process that ran a handler last, and when it began to."""
    lines = (house.folder / "effects.jsonl").read_text().splitlines()
    last = [json.loads(line) for line in lines if f'"phase": "{phase}"' in line][-1]
    return last["process"], last["mono"]


def test_f1_the_job_of_a_killed_worker_starts_elsewhere_within_3_seconds(house: House):
    took = []
    for _ in range(3):
        house.worker(lease=LEASE, concurrency=1)
    for number in range(1, 11 if LONG else 3):
        wait_until(lambda: house.value(ATTENDING) == 3)
        house.produce(1, payload={"seconds": 2})
        wait_until(lambda: house.effects("start") == 2 * number - 1)  # noqa: B023
        pid, _ = runner(house)
        house.kill(next(worker for worker in house.workers if worker.pid == pid))
        killed_at = time.monotonic()
        house.worker(lease=LEASE, concurrency=1)
        wait_until(lambda: house.effects("start") == 2 * number)  # noqa: B023
        took.append(runner(house)[1] - killed_at)
        wait_until(lambda: house.effects("done") == number)  # noqa: B023

    house.decide(jobs=len(took))
    print(f"started elsewhere after {[round(seconds, 2) for seconds in took]} s")
    assert house.outcomes() == [["LOST", "SUCCEEDED"]] * len(took)
    assert sorted(took)[len(took) // 2] < 3 and max(took) < (3 if LONG else 10)


def test_f1_a_worker_that_was_alone_is_noticed_by_its_successor(house: House):
    house.produce(1, payload={"seconds": 1})
    doomed = house.worker(lease=LEASE, concurrency=1)
    wait_until(lambda: house.effects("start") == 1)
    house.kill(doomed)

    house.worker(lease=LEASE, concurrency=1)
    wait_until(lambda: house.effects("start") == 2, timeout=15)

    house.decide(jobs=1)
    assert house.outcomes() == [["LOST", "SUCCEEDED"]]


def test_f2_a_worker_whose_sessions_are_cut_every_second_keeps_its_jobs(house: House):
    for _ in range(2):
        house.worker(lease=LEASE, concurrency=1)
    house.worker(f"{house.url}&application_name=unlucky", lease=LEASE, concurrency=1)
    rounds = 25 if LONG else 5
    wait_until(lambda: house.value(ATTENDING) == 3)
    house.produce(3, payload={"seconds": rounds + 1})
    wait_until(lambda: house.effects("start") == 3)
    for number in range(rounds):
        whose = "a.application_name = 'unlucky'" if number % 3 else "true"
        with house.fault("sessions cut", "server"), psycopg.connect(house.url) as conn:
            cut = conn.execute(
                DROP_SESSIONS.format(function="pg_terminate_backend") + f" and {whose}"
            ).fetchall()
        assert cut
        time.sleep(1)

    house.decide(jobs=3)
    assert house.outcomes() == [["SUCCEEDED"]] * 3


def test_f9_a_worker_that_stood_still_past_its_lease_finishes_nothing(house: House):
    house.produce(4, payload={"seconds": 0.5})
    zombie = house.worker(lease=1)
    wait_until(lambda: house.effects("start") == 4)
    with house.stopped(zombie):
        house.worker()
        house.drain()
    wait_until(lambda: "LEASE_LOST" in zombie.log.read_text())

    report = house.decide(jobs=4, late=1)

    assert house.outcomes() == [["LOST", "SUCCEEDED"]] * 4
    assert report.figures.duplicates_explained == 4


def test_f9_a_worker_that_comes_back_while_its_successor_runs_is_refused(house: House):
    house.produce(2, payload={"seconds": 3})
    zombie = house.worker(lease=1, concurrency=2)
    wait_until(lambda: house.effects("start") == 2)
    with house.stopped(zombie):
        wait_until(
            lambda: (
                house.execute("select rota.recover_jobs()") and house.outcomes() == [["LOST"]] * 2
            )
        )
        house.worker(lease=10, concurrency=2)
        wait_until(lambda: house.effects("start") == 4)
        time.sleep(1)  # by now the zombie's handlers are done, as soon as it may go on
    wait_until(lambda: zombie.log.read_text().count("LEASE_LOST") == 2)
    assert house.effects("done") == 2  # the successor's are not done yet

    report = house.decide(jobs=2, late=2)

    assert house.outcomes() == [["LOST", "SUCCEEDED"]] * 2
    assert report.figures.duplicates_explained == 2


def test_f10_a_handler_that_holds_the_interpreter_may_lose_its_lease_and_nothing_else(
    house: House,
):
    house.produce(1, task="hold_interpreter", payload={"seconds": 4})
    blocked = house.worker(lease=1, concurrency=1)
    wait_until(lambda: house.effects("start"))
    with house.fault("interpreter held", blocked.pid):
        house.worker()
        house.drain()
        wait_until(lambda: "LEASE_LOST" in blocked.log.read_text())

    report = house.decide(jobs=1, late=1)

    assert house.outcomes("hold_interpreter") == [["LOST", "SUCCEEDED"]]
    assert report.figures.duplicates_explained == 1


@pytest.mark.parametrize(
    "how",
    [
        "kill",
        pytest.param("exit", marks=only_long),
        pytest.param("segfault", marks=only_long),
    ],
)
def test_f26_a_poison_job_spends_its_attempts_and_fails(house: House, how: str):
    house.produce(1, task="poison", max_retries=1, payload={"how": how})
    house.produce(3)
    with house.fleet(1, lease=1, concurrency=1), house.fault(f"poison: {how}", "server"):
        house.drain()

    house.decide(jobs=4)

    assert house.outcomes("poison") == [["LOST", "LOST"]]
    assert house.value("select state from rota.jobs where task = 'poison'") == "FAILED"
    assert {attempts[-1] for attempts in house.outcomes()} == {"SUCCEEDED"}


def test_f27_a_task_that_this_worker_does_not_know_waits_for_one_that_does(house: House):
    house.produce(1, max_retries=0)
    ignorant = house.run(
        ["-m", "rota.worker", "--tasks", "rota.demo.tasks", "--poll", "0.2"],
        {**os.environ, "DATABASE_URL": house.url},
        house.folder / "ignorant.log",
    )
    with house.fault("unknown task", ignorant.pid):
        wait_until(lambda: house.outcomes() == [["RELEASED"]])
    ignorant.terminate()
    assert ignorant.wait(30) == 0
    assert "has no handler for task 'work'" in house.value("select error from rota.job_executions")

    house.worker()

    house.decide(jobs=1)
    assert house.outcomes() == [["RELEASED", "SUCCEEDED"]]


def test_f25_a_result_that_cannot_be_stored_is_a_failed_attempt(house: House):
    hows = ["nul", "surrogate", "nan", "nested", "object", "large", "number", "raises"]
    for how in hows:
        house.produce(1, task="answer", max_retries=0, payload={"how": how})
    house.produce(1)
    house.worker()

    house.decide(jobs=len(hows) + 1, faults=0)

    assert house.outcomes("answer") == [["FAILED"]] * len(hows)


def test_f34_a_handler_that_forks_finishes_once(house: House):
    house.produce(3, task="fork")
    house.worker()

    house.decide(jobs=3, faults=0)

    assert house.outcomes("fork") == [["SUCCEEDED"]] * 3


def test_f34_a_forked_child_is_refused_its_parents_connection(house: House):

    link = Link(house.url, "test", threading.Event(), patience=5.0, lock_patience=5.0)
    link.connection()
    child = os.fork()
    if child == 0:
        try:
            link.connection()
        except RuntimeError:
            os._exit(42)
        os._exit(0)

    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 42
    link.close()
