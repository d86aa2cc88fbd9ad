"""Handlers that leave a trace in the effects file, whatever becomes of their worker.

ROTA_EFFECTS names the file. A payload's ``key`` names the job, and with the attempt it decides
whether a flaky one fails, so that a run can be repeated.
"""

import ctypes
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import psycopg

from rota.worker import Job, task
from tests.faults.worker import die_at
from tests.history.record import Appender

effects = Appender(Path(os.environ["ROTA_EFFECTS"]))


def note(job: Job, phase: str) -> None:
    """Leave a trace."""
    effects.write(job=job.id, token=job.token, attempt=job.attempt, phase=phase)
    die_at(f"effect:{phase}")


@task("work")
def work(job: Job) -> dict[str, Any]:
    """Take ``seconds`` and leave an effect; then fail with the probability ``fail``."""
    note(job, "start")
    time.sleep(job.payload.get("seconds", 0))
    note(job, "done")
    key = job.payload.get("key", job.id)
    chance = random.Random(f"{key} {job.attempt}").random()
    if chance < job.payload.get("fail", 0):
        raise ConnectionError(f"failed at random: {chance:.3f}")
    return {"key": key}


@task("always_fails")
def always_fails(job: Job) -> None:
    """Fail."""
    raise ConnectionError("as always")


@task("hold_interpreter")
def hold_interpreter(job: Job) -> None:
    """Hold the interpreter's lock for ``seconds`` in the first attempt, as a C extension may."""
    note(job, "start")
    if job.attempt == 1:
        # PyDLL calls with the lock held, unlike CDLL.
        ctypes.PyDLL(None).usleep(int(job.payload["seconds"] * 1e6))
    note(job, "done")


@task("poison")
def poison(job: Job) -> None:
    """End the whole process, in the way that ``how`` says."""
    note(job, "start")
    how = job.payload["how"]
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)


@task("answer")
def answer(job: Job) -> Any:
    """Return a result that cannot be stored, or raise an error that cannot, by ``how``."""
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    how = job.payload["how"]
    if how == "raises":
        raise ValueError("\0 \ud800 " + "x" * 1_000_000)
    return {
        "nul": "a\0b",
        "surrogate": "\ud800",
        "nan": float("nan"),
        "nested": nested,
        "object": object(),
        "large": "x" * 20_000_000,
        "number": 10**5000,
    }[how]


@task("fork")
def fork(job: Job) -> dict[str, int]:
    """Fork, and let the child come back from here as if it were the worker."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        note(job, "start")
        note(job, "done")
    return {"child": child}


@task("transfer")
def transfer(job: Job) -> dict[str, int]:
    """Move one unit between two accounts, exactly once: the finish is in the same transaction."""
    note(job, "start")
    time.sleep(job.payload.get("pause", 0))
    outcome = {"moved": 1}
    with psycopg.Connection.connect(os.environ["DATABASE_URL"]) as conn:
        conn.execute("select rota.hold_lease(%s, %s)", [job.id, job.token])
        conn.execute("update accounts set balance = balance - 1 where name = 'left'")
        note(job, "held")
        time.sleep(job.payload.get("seconds", 0))
        conn.execute("update accounts set balance = balance + 1 where name = 'right'")
        conn.execute("insert into ledger values (%s, %s)", [job.id, job.token])
        note(job, "finishing")
        conn.execute(
            "select rota.finish_job(%s, %s, result => %s)",
            [job.id, job.token, psycopg.types.json.Jsonb(outcome)],
        )
        note(job, "finished")
    note(job, "done")
    return outcome


@task("in_steps")
def in_steps(job: Job) -> dict[str, int]:
    """Do three steps, with a sleep before the second and an event before the third."""

    def effect(name: str) -> str:
        note(job, f"in {name}")
        return f"{name} of {job.token}"

    note(job, "start")
    job.step("one", effect, "one")
    note(job, "after one")
    try:
        job.sleep("nap", job.payload["seconds"])
    finally:
        note(job, "after nap")
    job.step("two", effect, "two")
    note(job, "after two")
    try:
        job.wait_for(job.payload["event"], timeout=3600)
    finally:
        note(job, "after event")
    job.step("three", effect, "three")
    note(job, "done")
    return {"steps": 3}
